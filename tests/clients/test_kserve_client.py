"""KServe's REST and gRPC clients against a running server."""

from typing import Any

import pytest

from pilothouse.models.pocket.answers import SPAIN
from support.scripts import told_by
from support.server import Served

pytestmark = pytest.mark.slow  # makes an environment on its first run


@pytest.fixture(scope="module")
def told(server: Served) -> dict[str, Any]:
    """What both clients got, from one run of theirs."""
    prompt = f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n"
    return told_by("with_kserve.py", server.rest, server.grpc, server.model, prompt, requirements="kserve")


@pytest.mark.parametrize("wire", ["rest", "grpc"])
def test_health_is_as_the_client_expects(told: dict[str, Any], wire: str) -> None:
    """Live, ready and model ready are true."""
    assert {name: told[wire][name] for name in ("live", "ready", "model ready")} == {"live": True, "ready": True, "model ready": True}


@pytest.mark.parametrize("wire", ["rest", "grpc"])
@pytest.mark.parametrize("way", ["json", "binary"])
def test_known_answer_arrives_with_its_id(told: dict[str, Any], wire: str, way: str) -> None:
    """Plain and binary tensors get the known text, and the request's id comes back."""
    assert told[wire][way] == SPAIN[1]
    assert told[wire]["id"] == "kserve-1"


def test_unknown_model_is_the_clients_own_error(told: dict[str, Any]) -> None:
    """HTTP 404 and NOT_FOUND, both with a message that names the model."""
    assert told["rest"]["error"][0] == 404
    assert "no-such-model" in told["rest"]["error"][1]
    assert told["grpc"]["error"][0] == "NOT_FOUND"
    assert "no-such-model" in told["grpc"]["error"][1]
