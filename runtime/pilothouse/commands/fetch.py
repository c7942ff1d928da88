"""`pilothouse fetch URI FOLDER`: bring a model to a folder and check its digests; the chart's init container runs it."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("fetch", help="copy a registered model into a folder, digests checked", description=__doc__)
    command.add_argument("uri", help="models:/name@alias, models:/name/version, runs:/id/path or a folder")
    command.add_argument("folder", type=Path, help="where to put it; made if missing, replaced only when whole")
    command.add_argument("--digest", metavar="sha256:HEX", help="refuse any other (default: the one that the registry keeps)")
    command.add_argument("--report", type=Path, metavar="FILE", help="write what it became there as well, as JSON")
    flags.store(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pilothouse.models import registry

    resolved = registry.fetch(args.uri, args.folder, digest=args.digest, tracking_uri=args.tracking_uri)
    told = json.dumps(asdict(resolved), default=str)
    if args.report:
        args.report.write_text(told + "\n")
    print(told)
    return 0
