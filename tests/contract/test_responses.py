"""OpenAI's responses: answers, their streams, what they repeat, and every refusal by its field."""

import json
from typing import Any

import jsonschema
import pytest

from pilothouse.models.pocket.answers import SPAIN
from pilothouse.smoke.checks import Target
from pilothouse.smoke.client import Reply
from support.questions import SCHEMA

PATH = "/v1/responses"
LOGPROBS = "message.output_text.logprobs"
FORMAT = {"type": "json_schema", "name": "thing", "schema": SCHEMA, "strict": True}
TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


def ask(target: Target, **options: Any) -> Reply:
    """A short response."""
    return target.client.post(PATH, {"input": "Hello", "temperature": 0, "max_output_tokens": 8, **options})


def respond(target: Target, **options: Any) -> dict[str, Any]:
    """The response to a short input."""
    reply = ask(target, **options)
    assert reply.status == 200, reply.body
    return dict(reply.json)


def stream(target: Target, **options: Any) -> list[dict[str, Any]]:
    """The events of its stream."""
    body = {"input": "Hello", "temperature": 0, "max_output_tokens": 8, **options, "stream": True}
    return [event.json for event in target.client.events(PATH, body)]


def text(response: dict[str, Any]) -> str:
    return str(response["output"][0]["content"][0]["text"])


def test_response_has_openais_fields(target: Target) -> None:
    """Ids, times, the model's one name, what was asked, and that nothing is stored."""
    told = respond(target, metadata={"a": "b"}, instructions="Be brief")

    assert (told["object"], told["model"], told["status"]) == ("response", target.model, "incomplete")
    assert (told["id"][:5], told["output"][0]["id"][:4]) == ("resp_", "msg_")
    assert isinstance(told["created_at"], int)
    assert (told["metadata"], told["instructions"], told["max_output_tokens"]) == ({"a": "b"}, "Be brief", 8)
    assert (told["temperature"], told["store"], told["previous_response_id"], told["background"]) == (0, False, None, False)
    assert 0 <= told["usage"]["input_tokens_details"]["cached_tokens"] < told["usage"]["input_tokens"]
    assert told["id"] != respond(target)["id"]


def test_response_says_how_it_ended(trained: Target) -> None:
    """Completed, with the time, where the model ended it; incomplete, with the reason, where its tokens ran out."""
    whole = respond(trained, input=SPAIN[0], max_output_tokens=200)
    cut = respond(trained, input=SPAIN[0], max_output_tokens=3)

    assert (whole["status"], whole["incomplete_details"], text(whole)) == ("completed", None, SPAIN[1])
    assert whole["completed_at"] >= whole["created_at"]
    assert (cut["status"], cut["incomplete_details"], cut["completed_at"]) == ("incomplete", {"reason": "max_output_tokens"}, None)
    assert cut["usage"]["output_tokens"] == 3


def test_response_is_the_chat_of_its_turns(target: Target) -> None:
    """Instructions are the system's turn, items are the others; a response's own items may be sent back as they came."""
    first = respond(target, instructions="Be kind.")
    turns = [{"role": "user", "content": "Hello"}, *first["output"], {"role": "user", "content": [{"type": "input_text", "text": "More"}]}]
    again = respond(target, instructions="Be kind.", input=turns)
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": text(first)},
        {"role": "user", "content": "More"},
    ]
    chat = target.client.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 8}).json

    assert text(again) == chat["choices"][0]["message"]["content"]
    assert (again["usage"]["input_tokens"], again["usage"]["output_tokens"]) == (
        chat["usage"]["prompt_tokens"],
        chat["usage"]["completion_tokens"],
    )


@pytest.mark.parametrize("options", [{}, {"include": [LOGPROBS], "top_logprobs": 2}, {"text": {"format": FORMAT}, "max_output_tokens": 64}])
def test_stream_ends_with_the_unary_response(target: Target, options: dict[str, Any]) -> None:
    """Deltas join to its text, their log-probabilities to its own, and its events are numbered; only ids, times and the cache differ."""
    whole = respond(target, **options)
    told = stream(target, **options)
    deltas = [event for event in told if event["type"] == "response.output_text.delta"]
    last = told[-1]["response"]

    assert [event["type"] for event in told if event not in deltas] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{whole['status']}",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert "".join(event["delta"] for event in deltas) == text(last) == text(whole)
    part = last["output"][0]["content"][0]
    assert [entry for event in deltas for entry in event["logprobs"]] == part["logprobs"] == whole["output"][0]["content"][0]["logprobs"]
    changing = {"id", "created_at", "completed_at", "output", "usage"}
    assert {name: last[name] for name in last.keys() - changing} == {name: whole[name] for name in whole.keys() - changing}
    assert [last["usage"][name] for name in ("input_tokens", "output_tokens")] == [
        whole["usage"][name] for name in ("input_tokens", "output_tokens")
    ]


def test_every_token_is_an_event_of_its_own(trained: Target) -> None:
    """A user sees each as it comes: as many deltas as tokens, but for the one that ends the answer."""
    told = stream(trained, input=SPAIN[0], max_output_tokens=200)
    deltas = [event["delta"] for event in told if event["type"] == "response.output_text.delta"]

    assert "".join(deltas) == SPAIN[1]
    assert len(deltas) == told[-1]["response"]["usage"]["output_tokens"] - 1


def test_stream_is_not_to_be_kept_or_held_back(target: Target) -> None:
    """Each event has its type as its name, and nothing follows the last."""
    reply = target.client.post(PATH, {"input": "Hello", "max_output_tokens": 2, "stream": True})
    parts = reply.body.split(b"\n\n")

    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-store", "no")
    assert parts.pop() == b""
    for part in parts:
        name, data = part.split(b"\n")
        assert name.decode() == f"event: {json.loads(data.removeprefix(b'data: '))['type']}"
    assert b"[DONE]" not in reply.body


def test_guided_text_fits_its_format(target: Target) -> None:
    """A schema or any object, however hot."""
    guided = respond(target, text={"format": FORMAT}, temperature=1.5, max_output_tokens=64)
    free = respond(target, text={"format": {"type": "json_object"}}, max_output_tokens=48)

    jsonschema.validate(json.loads(text(guided)), SCHEMA)
    assert isinstance(json.loads(text(free)), dict)
    assert guided["text"]["format"] == FORMAT | {"description": None}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"input": None}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": "word " * 6000}, "input"),
        ({"input": [{"role": "wizard", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x/"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "a"}]}, "input[0].call_id"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"store": True}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "colour"}}}}, "text.format"),
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "a", "server_url": "http://x/"}]}, "tools[0].type"),
        ({"stream": True, "max_output_tokens": 0}, "max_output_tokens"),
        ({"stream": True, "tools": [TOOL]}, "tools"),
        ({"messages": []}, "messages"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_response_is_400_and_names_the_field(target: Target, options: dict[str, Any], param: str) -> None:
    """In OpenAI's error object, with `param` as the client spells it, whoever refused it; a stream's refusal is no stream."""
    reply = ask(target, **options)

    assert reply.status == 400, reply.body
    assert reply.headers["content-type"] == "application/json"
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert param.rpartition(".")[2] in error["message"]


def test_no_response_is_kept(target: Target) -> None:
    """Once it was answered it is nowhere: asking for it, ending it or its items is a path that does not exist."""
    made = respond(target)["id"]
    for method, path in (("GET", made), ("DELETE", made), ("POST", f"{made}/cancel"), ("GET", f"{made}/input_items")):
        reply = target.client.request(method, f"{PATH}/{path}", {} if method == "POST" else None)
        assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")
