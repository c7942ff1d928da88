"""`pilothouse smoke URL`: is the server there doing what it promises?"""

import argparse
import json
import os
import ssl
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilothouse.errors import StartError

if TYPE_CHECKING:
    from pilothouse.smoke.client import Client, Trust

PAUSE = 0.5  # seconds between two tries to reach somebody


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("smoke", help="check a running server's promises", description=__doc__)
    command.add_argument("url", help="the server's base URL, for example http://127.0.0.1:8080")
    command.add_argument("--grpc", metavar="HOST:PORT", help="check gRPC there as well (needs pilothouse[onnx])")
    trusting(command)
    command.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for one answer (default: 60)")
    command.add_argument("--wait", type=float, default=0.0, help="seconds to wait until somebody answers at all (default: 0)")
    command.add_argument(
        "--ask", action="append", default=[], metavar="TEXT", help="ask this as well, and report its answer and time; may be repeated"
    )
    command.add_argument("--times", type=int, default=5, help="how often each --ask is timed (default: 5)")
    command.add_argument("--json", action="store_true", help="print the report as one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when every promise held, 1 when one did not, 2 when there is no server to ask."""
    from pilothouse.smoke import asking, checks
    from pilothouse.smoke.answers import WrongAnswer
    from pilothouse.smoke.client import Client

    client = Client(args.url.rstrip("/"), key=key(args), timeout=args.timeout, trust=trust(args))
    try:
        model = _found(client, time.monotonic() + args.wait)
    except (OSError, WrongAnswer) as error:
        raise unreachable(args.url, error) from None
    results = []
    for result in checks.run(checks.Target(client, model, args.grpc)):
        results.append(result)
        if not args.json:
            print(
                f"{'ok  ' if result.problem is None else 'FAIL'}  {result.name:<14} {result.milliseconds:8.0f} ms  {result.problem or result.promise}",
                flush=True,
            )
    failed = [result for result in results if result.problem is not None]
    answers = asking.ask(client, model, args.ask, args.times) if args.ask and not failed else []
    if args.json:
        report: dict[str, Any] = {"url": args.url, "model": model, "passed": not failed, "checks": [asdict(result) for result in results]}
        if args.ask:
            report["answers"] = answers
        json.dump(report, sys.stdout, indent=2)
        print()
    else:
        for answer in answers:
            print(f"asked {answer['question']!r}: {answer['text']!r} in {statistics.median(answer['milliseconds']):.0f} ms")
        print(f"{len(results) - len(failed)} of {len(results)} promises held by {model} at {args.url}")
    return 1 if failed else 0


def _found(client: "Client", end: float) -> str:
    """The model's name, as soon as somebody answers: a Service may know its pods a little later than the pods are ready."""
    from pilothouse.smoke import checks

    while True:
        try:
            return checks.find_model(client)
        except OSError as error:
            if isinstance(error, ssl.SSLError) or time.monotonic() >= end:
                raise
            time.sleep(PAUSE)


def trusting(command: argparse.ArgumentParser) -> None:
    """The flags of a client that has a key and speaks TLS."""
    command.add_argument("--key-file", type=Path, help="file with the API key (or set PILOTHOUSE_API_KEY)")
    command.add_argument("--ca", type=Path, help="PEM file of the CA of an https server (default: this machine's CAs)")
    command.add_argument("--cert", type=Path, help="PEM file of your own certificate, where the server wants one")
    command.add_argument("--cert-key", type=Path, help="PEM file of its key (default: in the file of --cert)")


def trust(args: argparse.Namespace) -> "Trust | None":
    """What the flags say, where the server speaks TLS. Raises `StartError` for flags without TLS and files that make no sense."""
    from pilothouse.smoke.client import Trust

    if not args.url.startswith("https:"):
        if flag := next((flag for flag in ("ca", "cert", "cert_key") if getattr(args, flag) is not None), None):
            raise StartError(f"--{flag.replace('_', '-')} is for a server that speaks TLS, and {args.url} is none: write https://")
        return None
    made = Trust(args.ca, args.cert, args.cert_key)
    _ = made.context  # judged now
    return made


def unreachable(url: str, error: Exception) -> StartError:
    """Why nothing was heard from `url`, and what to do. TLS 1.3 tells of a missing client certificate by hanging up."""
    if isinstance(error, ssl.SSLError):
        said = getattr(error, "verify_message", "") or (error.reason or "no TLS").replace("_", " ").lower()
        return StartError(f"{url} speaks no TLS that we trust ({said}); name its CA with --ca, your certificate with --cert")
    from pilothouse.smoke.answers import KeyWanted, WrongAnswer

    if isinstance(error, KeyWanted):
        return StartError(f"{url} answers and {error}: set PILOTHOUSE_API_KEY, or name a file that holds one with --key-file")
    if isinstance(error, WrongAnswer | KeyError | TypeError | IndexError):
        return StartError(f"{url} is no Pilothouse server: {error if isinstance(error, WrongAnswer) else 'its list of models is another'}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    if url.startswith("https:") and isinstance(error, ConnectionResetError):
        return StartError(f"{url} hung up ({reason}); where it wants your certificate, name that with --cert")
    return StartError(f"no server answers at {url} ({reason}); start one with `pilothouse serve`")


def key(args: argparse.Namespace) -> str | None:
    """The API key of the flag's file, or of the environment. Raises `StartError` for a file that can't be read."""
    if args.key_file is None:
        return os.environ.get("PILOTHOUSE_API_KEY")
    try:
        return str(args.key_file.read_text().strip())
    except OSError as error:
        raise StartError(f"--key-file {args.key_file} can't be read: {error.strerror}") from None
