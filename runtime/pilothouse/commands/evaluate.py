"""`pilothouse evaluate MODEL`: exact answers, the wire's promises and latency of a registered version, as one MLflow run with a verdict."""

import argparse
import json
import os
import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pilothouse.commands import flags
from pilothouse.errors import StartError

if TYPE_CHECKING:
    from pilothouse.lifecycle.serving import Subject
    from pilothouse.lifecycle.versions import Version


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("evaluate", help="judge a registered version against the one in use", description=__doc__)
    command.add_argument("model", metavar="MODEL", help="models:/name@alias or models:/name/version")
    command.add_argument("--url", help="where it is served already (default: it is started here for the evaluation)")
    command.add_argument("--grpc", metavar="HOST:PORT", help="with --url: check gRPC there as well")
    command.add_argument(
        "--against", default="champion", metavar="ALIAS", help="compare with the version of this alias (default: %(default)s)"
    )
    command.add_argument("--against-url", metavar="URL", help="with --url: where that version is served")
    command.add_argument("--data", type=Path, metavar="FILE", help="questions and exact answers, JSON Lines (default: the pocket model's)")
    command.add_argument("--exact", type=float, default=1.0, help="least share of exact answers (default: %(default)s)")
    command.add_argument("--slower", type=float, default=1.25, help="most time of an answer, over the other's (default: %(default)s)")
    command.add_argument("--rounds", type=int, default=2, help="how often each question is asked (default: %(default)s)")
    command.add_argument("--key-file", type=Path, help="file with the servers' API key (or set PILOTHOUSE_API_KEY)")
    flags.store(command)
    command.add_argument("--experiment", default="pilothouse", help="MLflow experiment (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 where it passed, 1 where it did not, 2 where there was nothing to judge."""
    from pilothouse.lifecycle import evaluation, questions, versions

    if args.rounds < 1:
        raise StartError(f"--rounds {args.rounds} must be 1 or more")
    asked = questions.read(args.data or questions.POCKET)
    with versions.opened(args.tracking_uri) as registry:
        candidate = registry.find(args.model)
        baseline = registry.holder(candidate.name, args.against)
    if baseline is not None and baseline.number == candidate.number:
        baseline = None  # it is in use already: there is nothing to compare it with
    if baseline is not None and bool(args.url) != bool(args.against_url):
        raise StartError(
            f"{baseline} is {args.against}, and both must be served alike to be compared: give --url and --against-url, or neither"
        )
    with ExitStack() as stack, redirect_stdout(sys.stderr):  # MLflow prints there
        one = _served(stack, candidate, args, args.url, args.grpc)
        other = _served(stack, baseline, args, args.against_url, None) if baseline else None
        verdict = evaluation.evaluate(
            one,
            other,
            asked,
            limits=evaluation.Limits(args.exact, args.slower),
            rounds=args.rounds,
            experiment=args.experiment,
            tracking_uri=args.tracking_uri,
            say=_say,
        )
    if args.json:
        print(json.dumps(asdict(verdict)))
        return 0 if verdict.passed else 1
    for name, value in sorted(verdict.metrics.items()):
        print(f"  {name:<28} {value:.4g}")
    for problem in verdict.problems:
        print(f"  smoke: {problem}")
    compared = f"compared with version {baseline.number}, {args.against}" if baseline else f"no other version is {args.against}"
    print(f"{candidate} {'passed' if verdict.passed else 'failed'} ({compared}){': ' + verdict.reason if verdict.reason else ''}")
    print(f"run: {verdict.page}")
    return 0 if verdict.passed else 1


def _served(stack: ExitStack, version: "Version", args: argparse.Namespace, url: str | None, grpc: str | None) -> "Subject":
    from pilothouse.lifecycle import serving
    from pilothouse.smoke.client import Client

    if url is None:
        _say(f"serving {version}")
        return stack.enter_context(serving.started(version, args.tracking_uri))
    key = args.key_file.read_text().strip() if args.key_file else os.environ.get("PILOTHOUSE_API_KEY")
    return serving.at(version, Client(url.rstrip("/"), key=key), grpc)


def _say(line: str) -> None:
    print(f"{line} ...", file=sys.stderr, flush=True)
