"""MLServer's own gRPC stub and its command line against a running server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilothouse.models.pocket.answers import SPAIN
from support.scripts import told_by
from support.server import Served

PROMPT = f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n"


@pytest.fixture(scope="module")
def told(server: Served) -> dict[str, Any]:
    """What the stub got."""
    return told_by("with_mlserver.py", server.grpc, server.model, PROMPT)


def test_stub_gets_the_known_answer_unary_and_streamed(told: dict[str, Any]) -> None:
    """The stream speaks MLServer's own message to a caller who says so; its deltas join to the unary answer."""
    assert told["unary"] == told["stream"] == SPAIN[1]
    assert told["id"] == "mlserver-1"
    assert told["finish_reason"] == "stop"
    assert told["pieces"] > 20


def test_stub_gets_errors_as_statuses(told: dict[str, Any]) -> None:
    """An unknown model is NOT_FOUND, unary and streamed."""
    assert told["error"] == told["stream error"] == "NOT_FOUND"


@pytest.mark.parametrize("binary", [(), ("--binary-data",)])
def test_command_line_infers_a_file(server: Served, tmp_path: Path, binary: tuple[str, ...]) -> None:
    """`mlserver infer` gets an answer for each line of its file, in JSON and in binary."""
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [PROMPT], "parameters": {"content_type": "str"}}
    asked, told = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(json.dumps({"id": str(i), "inputs": [tensor]}) + "\n" for i in range(3)))
    command = [str(Path(sys.executable).with_name("mlserver")), "infer", "--url", server.rest.removeprefix("http://")]
    command += ["--model-name", server.model, "--input-data-path", str(asked), "--output-data-path", str(told), *binary]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in told.read_text().splitlines()]
    assert [answer["outputs"][0]["data"] for answer in answers] == [[SPAIN[1]]] * 3
