"""Streams, event by event."""

import json
import time
from collections.abc import Iterable
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from pilothouse.errors import EngineFailed, NotReady
from pilothouse.messages import Chunk, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols.openai_stream import ChatStream, CompletionStream

USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
HELLO = TokenLogprob("Hé", 5, -0.5, "Hé".encode())
LATER = TokenLogprob("y", 6, -1.5, b"y")


def chat(include_usage: bool = False) -> ChatStream:
    return ChatStream("chatcmpl-1", 1700000000, 'phi"3', include_usage)


def events(data: bytes) -> list[Any]:
    """The JSON of each event; every one is a single `data:` line."""
    parts = data.split(b"\n\n")
    assert parts.pop() == b""
    return [json.loads(part.removeprefix(b"data: ")) for part in parts]


def choices(stream: Iterable[bytes]) -> list[Any]:
    return [choice for data in stream for event in events(data) for choice in event["choices"]]


def test_an_event_word_for_word() -> None:
    """The bytes of a token's event: nothing is escaped that need not be, nothing is left out."""
    assert chat().chunk(Chunk('é "x"\n')) == (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"phi\\"3","choices":'
        b'[{"index":0,"delta":{"content":"\xc3\xa9 \\"x\\"\\n"},"logprobs":null,"finish_reason":null}]}\n\n'
    )


def test_a_chat_from_role_to_usage() -> None:
    """First the role, then text, then an empty delta with the one finish_reason, then the counts without choices."""
    stream = chat(include_usage=True)
    data = [
        stream.first(),
        stream.chunk(Chunk("Mad")),
        stream.chunk(Chunk("rid", finish_reason=FinishReason.STOP)),
        stream.usage(USAGE),
    ]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": 'phi"3'}

    assert events(b"".join(data)) == [
        head
        | {
            "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}],
            "usage": None,
        },
        head | {"choices": [{"index": 0, "delta": {"content": "Mad"}, "logprobs": None, "finish_reason": None}], "usage": None},
        head | {"choices": [{"index": 0, "delta": {"content": "rid"}, "logprobs": None, "finish_reason": None}], "usage": None},
        head | {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}], "usage": None},
        head
        | {
            "choices": [],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}},
        },
    ]


def test_no_usage_unless_asked() -> None:
    """Without include_usage there is neither a usage event nor a usage field."""
    stream = chat()

    assert stream.usage(USAGE) == b""
    assert "usage" not in events(stream.chunk(Chunk("x")))[0]


def test_a_chunk_that_says_nothing_is_no_event() -> None:
    """Half a character is shown to nobody."""
    assert chat().chunk(Chunk("", tokens=(5,))) == b""


def test_choices_keep_their_index() -> None:
    """With n > 1 the choices come mixed, each under its own number."""
    stream = chat()
    data = [
        stream.first(0),
        stream.first(1),
        stream.chunk(Chunk("b", index=1)),
        stream.chunk(Chunk("a")),
        stream.chunk(Chunk("B", index=1)),
    ]

    assert [(c["index"], c["delta"]["content"]) for c in choices(data)] == [(0, ""), (1, ""), (1, "b"), (0, "a"), (1, "B")]


def test_tool_calls_are_numbered_in_their_choice() -> None:
    """Each call is one delta with its place; the end says tool_calls."""
    stream = chat()
    data = [
        stream.chunk(Chunk(tool_calls=(ToolCall("c1", "f", "{}"), ToolCall("c2", "g", "{}")))),
        stream.chunk(Chunk(tool_calls=(ToolCall("c3", "h", "{}"),), finish_reason=FinishReason.TOOL_CALLS)),
    ]

    assert [(c["delta"], c["finish_reason"]) for c in choices(data)] == [
        ({"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, None),
        ({"tool_calls": [{"index": 1, "id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}, None),
        ({"tool_calls": [{"index": 2, "id": "c3", "type": "function", "function": {"name": "h", "arguments": "{}"}}]}, None),
        ({}, "tool_calls"),
    ]


def test_chat_logprobs_come_with_their_text() -> None:
    """A token without text of its own still has its logprob, with empty content."""
    stream = chat()
    data = [stream.chunk(Chunk("", logprobs=(HELLO,))), stream.chunk(Chunk("Hé", logprobs=(LATER,), finish_reason=FinishReason.LENGTH))]

    assert choices(data) == [
        {
            "index": 0,
            "delta": {"content": ""},
            "logprobs": {"content": [{"token": "Hé", "bytes": [72, 195, 169], "logprob": -0.5, "top_logprobs": []}], "refusal": None},
            "finish_reason": None,
        },
        {
            "index": 0,
            "delta": {"content": "Hé"},
            "logprobs": {"content": [{"token": "y", "bytes": [121], "logprob": -1.5, "top_logprobs": []}], "refusal": None},
            "finish_reason": None,
        },
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"},
    ]


def test_an_error_after_the_first_byte_is_an_event() -> None:
    """The typed error, not a cut connection; a foreign exception says nothing of itself."""
    assert events(chat().error(NotReady("draining: ask again"))) == [
        {"error": {"message": "draining: ask again", "type": "service_unavailable_error", "param": None, "code": "not_ready"}}
    ]
    assert events(CompletionStream("i", 1, "m").error(RuntimeError("secret")))[0]["error"]["code"] == "internal_error"
    assert events(chat().error(EngineFailed()))[0]["error"]["type"] == "server_error"


def test_a_completion_stream() -> None:
    """Text events, and the finish_reason with the last text; choices are numbered through prompts."""
    stream = CompletionStream("cmpl-1", 1700000000, "m", include_usage=True, n=2)
    data = [
        stream.chunk(Chunk("a")),
        stream.chunk(Chunk("b", index=1), row=1),
        stream.chunk(Chunk("")),
        stream.chunk(Chunk("c", finish_reason=FinishReason.STOP)),
        stream.usage(USAGE),
    ]

    assert choices(data) == [
        {"index": 0, "text": "a", "logprobs": None, "finish_reason": None},
        {"index": 3, "text": "b", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "c", "logprobs": None, "finish_reason": "stop"},
    ]
    assert events(data[0])[0].items() >= {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "usage": None}.items()
    assert (data[2], events(data[4])[0]["usage"]["total_tokens"]) == (b"", 10)


def test_completion_offsets_run_through_the_stream() -> None:
    """text_offset counts characters of the whole choice, each choice its own."""
    stream = CompletionStream("i", 1, "m", n=2)
    data = [
        stream.chunk(Chunk("Hé", logprobs=(HELLO,))),
        stream.chunk(Chunk("y", index=1, logprobs=(LATER,))),
        stream.chunk(Chunk("y", logprobs=(LATER,), finish_reason=FinishReason.STOP)),
    ]

    assert [c["logprobs"]["text_offset"] for c in choices(data)] == [[0], [0], [2]]


def test_openais_types_take_every_chat_event() -> None:
    """Strictly: right types, and no field that the openai package does not know."""
    stream = chat(include_usage=True)
    data = [
        stream.first(),
        stream.chunk(Chunk("x", logprobs=(HELLO,))),
        stream.chunk(Chunk(tool_calls=(ToolCall("c1", "f", "{}"),), finish_reason=FinishReason.TOOL_CALLS)),
        stream.usage(USAGE),
    ]
    for raw in events(b"".join(data)):
        parsed = ChatCompletionChunk.model_validate(raw, strict=True)

        assert parsed.model_extra == {}
        assert [(c.model_extra, c.delta.model_extra) for c in parsed.choices] == [({}, {})] * len(parsed.choices)


def test_openais_types_take_the_completion_end() -> None:
    """Its type has no null finish_reason, though OpenAI itself sends it: strictness is for the events that have one."""
    stream = CompletionStream("i", 1, "m", include_usage=True)
    data = stream.chunk(Chunk("x", logprobs=(HELLO,), finish_reason=FinishReason.STOP)) + stream.usage(USAGE)

    assert [Completion.model_validate(raw, strict=True).model_extra for raw in events(data)] == [{}, {}]


@pytest.mark.parametrize("text", [" token", "é"])
def test_a_tokens_event_is_cheap(text: str) -> None:
    """At 16 rows of 100 tokens a second an event may cost 10 microseconds; the best of several rounds, for a busy machine."""
    stream, chunk = chat(), Chunk(text, tokens=(5,))

    def round_() -> float:
        start = time.perf_counter()
        for _ in range(200):
            stream.chunk(chunk)
        return (time.perf_counter() - start) / 200

    assert min(round_() for _ in range(20)) < 10e-6
