"""scripts/bench load: one load on one server.

    scripts/bench load http://127.0.0.1:8080 --clients 8 --requests 64
    scripts/bench load http://127.0.0.1:8080 --rate 2.5 --requests 200 --out run.jsonl.gz

Prints the figures, writes one JSON line for each request with --out. Exit code 1 where an answer failed, was short, or Ctrl-C cut the run.
"""

import argparse
import gzip
import sys
from pathlib import Path
from typing import TextIO

from client import workloads
from client.answer import Answer
from client.dialects import DIALECTS
from client.driving import Target, drive
from client.summary import figures, verdict


class Progress:
    """One line that is written over, on a terminal; nothing elsewhere. Keeps every answer in `out` as it ends."""

    def __init__(self, wanted: int, out: TextIO | None = None, label: str = "") -> None:
        self._wanted, self._out, self._label = wanted, out, label
        self._done = self._tokens = 0
        self._last = 0.0

    def __call__(self, answer: Answer) -> None:
        self._done += 1
        self._tokens += answer.tokens
        if self._out is not None:
            self._out.write(answer.line() + "\n")
        if sys.stderr.isatty() and (answer.end - self._last > 0.2 or self._done == self._wanted):
            self._last = answer.end
            print(f"\r\x1b[K{self._label}{self._done}/{self._wanted}, {self._tokens / answer.end:.1f} tokens/s", end="", file=sys.stderr)

    def close(self) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)


def opened(file: Path) -> TextIO:
    return gzip.open(file, "wt") if file.suffix == ".gz" else file.open("w")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="bench load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="http://HOST:PORT")
    parser.add_argument("--dialect", choices=DIALECTS, default="completions", help="default: %(default)s")
    parser.add_argument("--model", default="", help="its name, where the server wants one")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--clients", type=int, default=1, help="closed loop: so many at once (default: %(default)s)")
    shape.add_argument("--rate", type=float, help="open loop: requests a second, Poisson")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64, metavar="WORDS", help="of each prompt")
    parser.add_argument("--tokens", type=int, default=32, help="of each answer; 0: lognormal, 4 to 128")
    parser.add_argument("--ids", action="store_true", help="prompts as token ids between 1000 and 31000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-up", type=int, default=2, metavar="REQUESTS", help="asked first and not counted")
    parser.add_argument("--out", type=Path, help="JSON lines, compressed where it ends in .gz")
    args = parser.parse_args(arguments)
    for name in ("requests", "clients", "prompt"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if args.rate is not None and args.rate <= 0:
        parser.error("--rate must be above 0")
    target = Target(args.url, DIALECTS[args.dialect], args.model)
    requests = workloads.unlike(args.seed, args.requests, args.prompt, args.tokens or None, plain=not args.ids)
    if args.rate:
        requests = workloads.poisson(requests, args.rate, args.seed)
    out = opened(args.out) if args.out else None
    progress = Progress(len(requests), out)
    try:
        if args.warm_up:
            drive(target, workloads.unlike(args.seed - 1, args.warm_up, args.prompt, 4, plain=not args.ids), 1)
        run = drive(target, requests, None if args.rate else args.clients, progress)
    except (OSError, ValueError) as error:
        parser.error(f"{args.url}: {error}")
    finally:
        progress.close()
        if out is not None:
            out.close()
    for name, value in figures(run.answers).items():
        print(f"{name:<22} {value:.4g}")
    print(f"{'client_cpu':<22} {run.cpu:.1%} of a core" + ("  (over 15%: the client may be what is measured)" if run.cpu > 0.15 else ""))
    if wrong := verdict(run):
        print(f"bench load: does not count: {wrong}", file=sys.stderr)
    return 1 if wrong else 0
