"""`pilothouse serve [MODEL]`: one model over V2 REST and gRPC, OpenAI's API and MLflow's /invocations."""

import argparse
import json
import os
import sys
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from pilothouse import settings as settings_room
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from pilothouse.server.serving import Addresses


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "serve",
        help="serve a model (default: the embedded one)",
        description=f"{__doc__} Every flag is also a setting PILOTHOUSE_<NAME> in the environment; the flag wins.",
    )
    command.add_argument("model", nargs="?", help=Settings.model_fields["model"].description)
    command.add_argument("--ready-file", type=Path, help="write the addresses there as JSON once the model answers")
    for name, field in Settings.model_fields.items():
        if name != "model":
            _flag(command, name, field)
    command.set_defaults(run=run)


def _flag(command: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """A setting as a flag; absent means "as the environment or the default says"."""
    kind = field.annotation
    help_ = f"{field.description} Default: {field.default if field.default is not None else 'none'}.".replace("%", "%%")
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        command.add_argument(flag, dest=name, default=None, action=argparse.BooleanOptionalAction, help=help_)
    elif get_origin(kind) is Literal:
        command.add_argument(flag, dest=name, choices=get_args(kind), help=help_)
    else:
        command.add_argument(flag, dest=name, metavar=_plain(kind).__name__.upper(), help=help_)


def _plain(kind: Any) -> type[Any]:
    """`int` of `int | None`."""
    found: type[Any] = next((part for part in get_args(kind) if part is not NoneType), kind)
    return found


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop. 0 after a clean stop, 2 where the user can mend something, 1 where the server broke."""
    given = {name: value for name in Settings.model_fields if (value := getattr(args, name)) is not None}
    settings = settings_room.load(**given)
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from pilothouse.server import ports

    ports.demand_free(settings)
    # The model loads beside the imports: MLServer alone takes two seconds.
    from pilothouse.metrics import Metrics
    from pilothouse.models import loading

    metrics = Metrics()
    model = loading.begin(settings, observer=loading.EngineObserver(queued=metrics.queued))
    from pilothouse.server import serving

    def ready(addresses: "Addresses") -> None:
        if args.ready_file:
            args.ready_file.write_text(json.dumps(addresses.as_dict()))
        print(welcome(addresses, model.result().sentence), flush=True)

    return serving.serve(settings, model, metrics=metrics, on_ready=ready)


def welcome(addresses: "Addresses", sentence: str) -> str:
    """What a user sees once the model answers: where it is, and lines to paste."""
    name, rest, grpc = addresses.model, addresses.rest, addresses.grpc
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    question = "What is the capital of Spain?"
    ca, grpc_ca = ("--cacert ca.pem ", "-cacert ca.pem ") if rest.startswith("https:") else ("", "-plaintext ")
    chat = json.dumps({"model": name, "messages": [{"role": "user", "content": question}]})
    tensor = json.dumps(
        {
            "model_name": name,
            "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": ["SGVsbG8="]}}],
        }
    )
    return f"""{bold}Pilothouse serves {sentence}{plain}
  REST     {rest}    V2, OpenAI and MLflow on one port
  gRPC     {grpc}
  metrics  {addresses.metrics}

{bold}curl{plain}
  curl {ca}{rest}/v1/chat/completions -H 'Content-Type: application/json' -d '{chat}'

{bold}Python{plain}  (pip install openai)
  from openai import OpenAI
  client = OpenAI(base_url="{rest}/v1", api_key="none")
  for chunk in client.chat.completions.create(model="{name}", stream=True, messages=[{{"role": "user", "content": "{question}"}}]):
      print(chunk.choices[0].delta.content or "", end="")

{bold}gRPC{plain}
  grpcurl {grpc_ca}-d '{tensor}' {grpc} inference.GRPCInferenceService/ModelInfer

Ctrl-C stops it: running answers are finished first."""
