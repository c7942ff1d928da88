"""`pilothouse resolve URI`: what an alias is now, a version and a digest; with --values as values of the chart."""

import argparse
import json
from dataclasses import asdict

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("resolve", help="say which version and digest an alias is now", description=__doc__)
    command.add_argument("uri", help="models:/name@alias or models:/name/version")
    command.add_argument("--values", action="store_true", help="as values of the Helm chart, so that every pod serves that very version")
    flags.store(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pilothouse.lifecycle import versions

    with versions.opened(args.tracking_uri) as registry:
        version = registry.find(args.uri)
    if args.values:
        print(json.dumps({"model": {"source": "mlflow", "mlflow": {"uri": version.uri, "digest": version.digest or ""}}}))
    else:
        print(json.dumps({"uri": version.uri, **asdict(version)}))
    return 0
