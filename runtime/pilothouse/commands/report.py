"""`pilothouse report models:/NAME@ALIAS`: what was served beside what was evaluated."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from dataclasses import asdict

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("report", help="compare what was served with the evaluation", description=__doc__)
    command.add_argument("model", help="models:/name@alias or models:/name/version")
    source = command.add_mutually_exclusive_group()
    source.add_argument("--experiment", default="served", help="experiment that the traces went to (default: %(default)s)")
    source.add_argument("--metrics", metavar="URL", help="a server's /metrics in place of traces")
    command.add_argument("--hours", type=float, default=24.0, help="how far back traces count (default: %(default)g)")
    command.add_argument(
        "--slower", type=float, metavar="RATIO", help="end with 1 where the median answer took longer than evaluated, by more than this"
    )
    command.add_argument("--failed", type=float, metavar="SHARE", help="end with 1 where more than this share of the requests failed")
    flags.store(command)
    command.add_argument("--json", action="store_true", help="print the report as one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report. 0, or 1 where it is over a limit that was given."""
    from pilothouse.lifecycle import report

    if args.metrics:
        made = report.from_metrics(args.model, _read(args.metrics), tracking_uri=args.tracking_uri)
    else:
        made = report.from_traces(args.model, experiment=args.experiment, hours=args.hours, tracking_uri=args.tracking_uri)
    if args.json:
        print(json.dumps({**asdict(made), "slower": made.slower}))
    else:
        print("\n".join(report.lines(made)))
    over = []
    if args.slower is not None and made.slower is not None and made.slower > args.slower:
        over.append(f"the median answer took {made.slower:.2f} times as long as evaluated, and {args.slower:g} is the limit")
    if args.failed is not None and (failed := made.served.get("failed_share", 0.0)) > args.failed:
        over.append(f"{failed:.1%} of the requests failed, and {args.failed:.1%} is the limit")
    for line in over:
        print(line, file=sys.stderr)
    return 1 if over else 0


def _read(url: str) -> str:
    from pilothouse.errors import StartError

    if not url.startswith(("http://", "https://")):
        raise StartError(f"--metrics {url!r} is no address; give http://HOST:8082/metrics")
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (OSError, ValueError, urllib.error.URLError):
        raise StartError(f"{url} can't be read; check that the server runs and that its metrics are reachable from here") from None
