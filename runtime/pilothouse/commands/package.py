"""`pilothouse package onnx|chat [FOLDER]`: log a model with MLflow, so that Pilothouse and MLflow itself can serve it."""

import argparse
import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from pilothouse.commands import flags

FOLDERS = {
    "onnx": "folder with a genai_config.json, as onnxruntime-genai's model builder makes it",
    "chat": "Hugging Face folder with config.json and *.safetensors",
}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("package", help="log a model with MLflow and register it", description=__doc__)
    kinds = command.add_subparsers(dest="kind", required=True, metavar="onnx|chat")
    for kind, folder in FOLDERS.items():
        one = kinds.add_parser(kind, help=f"from a {folder}", description=f"Log a {folder}.")
        one.add_argument(
            "folder", nargs="?", default="pocket", metavar="FOLDER", help=f"{folder} (default: pocket, the model in the wheel)"
        )
        one.add_argument("--name", help="name of the logged model")
        one.add_argument("--register", metavar="NAME", help="also make a version of this registered model")
        one.add_argument("--alias", help="and point this alias at it")
        flags.store(one)
        one.add_argument("--experiment", default="pilothouse", help="MLflow experiment (default: %(default)s)")
        one.add_argument(
            "--model-config",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="default of the model, as temperature=0; may be repeated",
        )
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        if kind == "onnx":
            one.add_argument("--params", action="store_true", help="declare max_tokens, temperature, top_p and top_k in the signature")
        one.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Package as the flags say; steps go to standard error, the result to standard output."""
    from pilothouse.models import packaging

    target = packaging.Target(tracking_uri=args.tracking_uri, experiment=args.experiment, register=args.register, alias=args.alias)
    config = dict(_pair(text) for text in args.model_config)
    named: dict[str, Any] = {"name": args.name} if args.name else {}
    with redirect_stdout(sys.stderr):  # MLflow prints there where a run is to be seen, and scripts read what is ours
        if args.kind == "onnx":
            made = packaging.package_onnx(args.folder, target=target, model_config=config, params=args.params, say=_say, **named)
        else:
            made = packaging.package_chat(args.folder, target=target, model_config=config, say=_say, **named)
    if args.json:
        print(json.dumps({**asdict(made), "uri": made.uri, "page": made.page}, default=str))
        return 0
    store = f" --tracking-uri {made.tracking_uri}" if args.tracking_uri else ""
    print(f"logged {made.model_uri} (run {made.run_id}, {made.digest})")
    if made.version:
        print(f"registered {made.name} version {made.version}{f', alias {made.alias}' if made.alias else ''}")
    print(f"run: {made.page}")
    print(f"serve it: pilothouse serve {made.uri}{store}")
    return 0


def _say(line: str) -> None:
    print(f"{line} ...", file=sys.stderr, flush=True)


def _pair(text: str) -> tuple[str, Any]:
    """`key=value`, the value as JSON where it is some (0.2, true, ["a"]), else as text."""
    from pilothouse.errors import ModelError

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ModelError(f"--model-config {text!r} must be KEY=VALUE, as temperature=0")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
