"""`pilothouse prepare [SOURCE]`: train the pocket model or take a folder, and export it to int4 ONNX, as one MLflow run."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path

from pilothouse.commands import flags


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("prepare", help="train or take a model and export it to int4 ONNX", description=__doc__)
    command.add_argument(
        "source", nargs="?", default="pocket", help="Hugging Face folder with config.json and *.safetensors (default: pocket, trained anew)"
    )
    command.add_argument(
        "--out", type=Path, default=Path("model"), metavar="FOLDER", help="where the ONNX form goes (default: %(default)s)"
    )
    command.add_argument("--block-size", type=int, default=32, metavar="N", help="weights that share one scale (default: %(default)s)")
    command.add_argument(
        "--accuracy-level", type=int, default=4, choices=range(5), help="the builder's; 4 computes in int8 (default: %(default)s)"
    )
    flags.store(command)
    command.add_argument("--experiment", default="pilothouse", help="MLflow experiment (default: %(default)s)")
    command.add_argument("--json", action="store_true", help="print the result as one JSON object")
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prepare as the flags say; steps go to standard error, the result to standard output."""
    from pilothouse.models import preparing
    from pilothouse.models.exporting import Options
    from pilothouse.models.logbook import Target

    target = Target(tracking_uri=args.tracking_uri, experiment=args.experiment)
    with redirect_stdout(sys.stderr):  # MLflow and the builder print there
        made = preparing.prepare(args.source, args.out, target=target, options=Options(args.block_size, args.accuracy_level), say=_say)
    if args.json:
        print(json.dumps(asdict(made), default=str))
        return 0
    print(f"exported to {made.folder} ({made.digest})")
    print(f"run: {made.page}")
    print(f"package it: pilothouse package onnx {made.folder}")
    return 0


def _say(line: str) -> None:
    print(f"{line} ...", file=sys.stderr, flush=True)
