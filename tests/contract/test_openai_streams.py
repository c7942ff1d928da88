"""OpenAI's streams: the order of their events, one for each token, and nothing said twice."""

from typing import Any

import pytest

from pilothouse.models.pocket.answers import SPAIN
from pilothouse.smoke.checks import Target

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 8}


def chunks(target: Target, path: str = "/v1/chat/completions", **options: Any) -> list[dict[str, Any]]:
    """The chunks of a stream that ended with [DONE], and with nothing after it."""
    body = {**HELLO, **options, "stream": True} if "prompt" not in options else {**options, "stream": True}
    events = list(target.client.events(path, body))
    assert [event.done for event in events] == [False] * (len(events) - 1) + [True]
    return [event.json for event in events[:-1]]


def test_every_chunk_has_openais_fields_and_no_others(target: Target) -> None:
    """One id, one time, one model; a delta says the role once, first."""
    told = chunks(target)

    assert {frozenset(chunk) for chunk in told} == {frozenset({"id", "object", "created", "model", "choices"})}
    assert len({(chunk["id"], chunk["created"]) for chunk in told}) == 1
    assert {(chunk["object"], chunk["model"]) for chunk in told} == {("chat.completion.chunk", target.model)}
    assert {frozenset(chunk["choices"][0]) for chunk in told} == {frozenset({"index", "delta", "logprobs", "finish_reason"})}
    assert told[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(chunk["choices"][0]["delta"]) == {"content"} for chunk in told[1:-1])
    assert told[-1]["choices"][0]["delta"] == {}
    assert [c["choices"][0]["finish_reason"] for c in told if c["choices"][0]["finish_reason"]] == ["length"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_comes_last_and_only_when_asked(target: Target, path: str) -> None:
    """With include_usage every chunk has the field, null but in the last, which has no choices; without it none has."""
    body = {} if "chat" in path else {"prompt": "Hello", "max_tokens": 8, "temperature": 0}
    unary = target.client.post(path, body or HELLO).json
    asked = chunks(target, path, **body, stream_options={"include_usage": True})

    assert [chunk["usage"] for chunk in asked[:-1]] == [None] * (len(asked) - 1)
    assert asked[-1]["choices"] == []
    assert {name: asked[-1]["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        name: unary["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    for options in ({}, {"stream_options": {"include_usage": False}}, {"stream_options": {}}):
        told = chunks(target, path, **body, **options)
        assert all("usage" not in chunk and chunk["choices"] for chunk in told)


def test_every_token_is_an_event_of_its_own(target: Target) -> None:
    """A user sees each as it comes: as many content events as tokens, but for the one that ends the answer."""
    if target.model == "scripted":
        pytest.skip("its tokens are parts of characters")
    told = chunks(target, messages=[{"role": "user", "content": SPAIN[0]}], max_tokens=200, stream_options={"include_usage": True})

    texts = [choice["delta"]["content"] for chunk in told for choice in chunk["choices"] if choice["delta"].get("content")]
    assert "".join(texts) == SPAIN[1]
    assert len(texts) == told[-1]["usage"]["completion_tokens"] - 1


@pytest.mark.parametrize("options", [{}, {"n": 3, "temperature": 1.4, "seed": 9}, {"logprobs": True, "top_logprobs": 2}])
def test_stream_joins_to_the_unary_answer(target: Target, options: dict[str, Any]) -> None:
    """Text, reason and log-probabilities of every choice."""
    unary = target.client.post("/v1/chat/completions", {**HELLO, **options}).json["choices"]
    told = [choice for chunk in chunks(target, **options) for choice in chunk["choices"]]

    for whole in unary:
        mine = [choice for choice in told if choice["index"] == whole["index"]]
        assert mine[0]["delta"]["role"] == "assistant"
        assert "".join(choice["delta"].get("content", "") for choice in mine) == whole["message"]["content"]
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + [whole["finish_reason"]]
        entries = [entry for choice in mine if choice["logprobs"] for entry in choice["logprobs"]["content"]]
        assert entries == (whole["logprobs"]["content"] if whole["logprobs"] else [])


def test_completion_stream_joins_to_the_unary_answer(target: Target) -> None:
    """Several prompts, several choices, echoed, with log-probabilities: every index joins to its own."""
    for options in ({"n": 2, "seed": 5, "temperature": 1.2}, {"echo": True}, {"logprobs": 2}):
        body = {"prompt": ["Hello", "Good"], "max_tokens": 8, "temperature": 0, **options}
        unary = target.client.post("/v1/completions", body).json["choices"]
        told = [choice for chunk in chunks(target, "/v1/completions", **body) for choice in chunk["choices"]]
        for whole in unary:
            mine = [choice for choice in told if choice["index"] == whole["index"]]
            assert "".join(choice["text"] for choice in mine) == whole["text"]
            assert [choice["finish_reason"] for choice in mine if choice["finish_reason"]] == [whole["finish_reason"]]
            if whole["logprobs"]:
                for name, values in whole["logprobs"].items():
                    assert [value for choice in mine if choice["logprobs"] for value in choice["logprobs"][name]] == values


def test_stream_is_not_to_be_kept_or_held_back(target: Target) -> None:
    """Its headers say so to every proxy."""
    reply = target.client.post("/v1/chat/completions", {**HELLO, "stream": True})

    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-store", "no")
