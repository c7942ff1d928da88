"""Triton's HTTP and gRPC clients with their defaults, against a running server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pilothouse.models.pocket.answers import SPAIN
from support.server import Served


@pytest.fixture(scope="module")
def told(server: Served) -> dict[str, Any]:
    """What both clients got, from one run of theirs."""
    prompt = f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n"
    script = Path(__file__).with_name("triton.py")
    command = [sys.executable, str(script), server.rest.removeprefix("http://"), server.grpc, server.model, prompt]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_http_client_sees_health_and_metadata(told: dict[str, Any]) -> None:
    """Liveness, readiness and the model's name are what the client expects."""
    assert {name: told["http"][name] for name in ("live", "ready", "model ready", "id")} == {
        "live": True,
        "ready": True,
        "model ready": True,
        "id": "7",
    }


@pytest.mark.parametrize("way", ["binary", "json"])
@pytest.mark.parametrize("squeeze", ["None", "gzip", "deflate"])
def test_http_client_gets_the_known_answer(told: dict[str, Any], way: str, squeeze: str) -> None:
    """Binary tensors, the client's default, and JSON ones, plain and compressed, get the known text."""
    assert told["http"][f"{way} {squeeze}"] == SPAIN[1]


def test_grpc_client_gets_the_known_answer_unary_and_streamed(told: dict[str, Any]) -> None:
    """The stream speaks Triton's own message; its deltas join to the unary answer."""
    assert told["grpc"]["unary"] == SPAIN[1]
    assert told["grpc"]["stream"] == SPAIN[1]
    assert told["grpc"]["pieces"] > 20


def test_unknown_model_is_the_clients_own_error(told: dict[str, Any]) -> None:
    """Both clients raise their typed error, HTTP with the model's name and gRPC with NOT_FOUND."""
    assert "no-such-model" in told["http"]["error"]
    assert told["grpc"]["error"] == "StatusCode.NOT_FOUND"
