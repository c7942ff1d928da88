"""Libraries on top of OpenAI's protocol, each in an environment of its own, against a running server."""

from typing import Any

import pytest

from pilothouse.models.pocket.answers import SPAIN
from support.scripts import told_by
from support.server import Served

pytestmark = pytest.mark.slow  # makes an environment on its first run


@pytest.fixture(scope="module")
def langchain(server: Served) -> dict[str, Any]:
    """What LangChain's chat model got."""
    return told_by("with_langchain.py", server.rest, server.model, SPAIN[0], requirements="openai_family")


@pytest.fixture(scope="module")
def litellm(server: Served) -> dict[str, Any]:
    """What LiteLLM got."""
    return told_by("with_litellm.py", server.rest, server.model, SPAIN[0], requirements="openai_family")


def test_langchain_streams_what_it_gets_at_once(langchain: dict[str, Any]) -> None:
    """Text, finish reason and usage of the joined stream are the unary ones: token counts are not doubled."""
    assert langchain["unary"] == langchain["stream"] == SPAIN[1]
    assert langchain["finish_reason"] == langchain["stream finish_reason"] == "stop"
    assert langchain["usage"] == langchain["stream usage"]
    assert langchain["pieces"] > 20


def test_langchain_gets_the_same_over_responses(langchain: dict[str, Any]) -> None:
    """Whole and streamed: the chat's text and counts; its answer can be sent back for a second turn."""
    told = langchain["responses"]

    assert told["unary"] == told["stream"] == langchain["unary"]
    assert told["status"] == told["stream status"] == "completed"
    assert told["usage"] == told["stream usage"] == langchain["usage"]
    assert told["pieces"] > 20
    assert told["second turn"] > told["usage"]["total_tokens"]


def test_langchain_raises_the_clients_own_error(langchain: dict[str, Any]) -> None:
    """A refused temperature is a BadRequestError that names it."""
    assert langchain["error"] == "temperature"


def test_litellm_streams_what_it_gets_at_once(litellm: dict[str, Any]) -> None:
    """Text, the one finish reason and the one usage of the stream are the unary ones."""
    assert litellm["unary"] == litellm["stream"] == SPAIN[1]
    assert litellm["stream finish_reason"] == [litellm["finish_reason"]] == ["stop"]
    assert litellm["stream usage"] == [litellm["usage"]]
    assert litellm["pieces"] > 20


def test_litellm_raises_the_clients_own_error(litellm: dict[str, Any]) -> None:
    """A refused temperature is LiteLLM's BadRequestError with status 400, and says so."""
    assert litellm["error"] == [400, True]
