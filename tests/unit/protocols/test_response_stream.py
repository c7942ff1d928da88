"""A response's stream, event by event."""

import json
import time
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from pilothouse.errors import EngineFailed
from pilothouse.messages import Answer, Choice, Chunk, Defaults, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols import response_answers, responses
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.response_answers import Head
from pilothouse.protocols.response_stream import ResponseStream

USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
HELLO = TokenLogprob("Hé", 5, -0.5, "Hé".encode())
LATER = TokenLogprob("y", 6, -1.5, b"y")
CALLS = (ToolCall("call_a", "f", '{"a":1}'), ToolCall("call_b", "g", "{}"))
MESSAGE = ["output_item.added", "content_part.added"]
DONE = ["output_text.done", "content_part.done", "output_item.done"]
CALL = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
ENDED = 1700000009


@pytest.fixture
def head(limits: Limits) -> Head:
    return Head("resp_1", 1700000000, 'phi"3', responses.response({"input": "Hi"}, limits).options(Defaults()))


def events(data: bytes) -> list[Any]:
    """The JSON of each event, whose name is its type; they are numbered from 0."""
    parts = data.split(b"\n\n")
    assert parts.pop() == b""
    found = []
    for part in parts:
        name, told = part.split(b"\n")
        found.append(json.loads(told.removeprefix(b"data: ")))
        assert name == b"event: " + found[-1]["type"].encode()
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def streamed(head: Head, *chunks: Chunk) -> list[Any]:
    """All events of a stream of these chunks."""
    stream = ResponseStream(head)
    return events(stream.opening() + b"".join(map(stream.chunk, chunks)) + stream.closing(USAGE, ENDED))


def kinds(told: list[Any]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def test_a_tokens_event_word_for_word(head: Head) -> None:
    """The bytes: nothing is escaped that need not be, nothing is left out."""
    stream = ResponseStream(head)
    stream.chunk(Chunk("M"))

    assert stream.chunk(Chunk('é "x"\n')) == (
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","item_id":"msg_100","output_index":0,"content_index":0,'
        b'"sequence_number":3,"delta":"\xc3\xa9 \\"x\\"\\n","logprobs":[]}\n\n'
    )


def test_a_response_from_created_to_completed(head: Head) -> None:
    """It is created and in progress before any text; each token is a delta; text, part and item are done; the last event has it all."""
    told = streamed(head, Chunk("Mad"), Chunk(""), Chunk("rid", finish_reason=FinishReason.STOP))
    begun = response_answers.response(head, "in_progress")
    whole = response_answers.answer(head, ENDED, Answer((Choice(0, "Madrid", FinishReason.STOP),), USAGE))
    place = {"item_id": "msg_100", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "Madrid"}

    assert kinds(told) == ["created", "in_progress", *MESSAGE, "output_text.delta", "output_text.delta", *DONE, "completed"]
    assert [event["response"] for event in told if "response" in event] == [begun, begun, whole]
    assert told[2]["item"] == {"id": "msg_100", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    assert told[3]["part"] == part | {"text": ""}
    assert [event["delta"] for event in told[4:6]] == ["Mad", "rid"]
    assert told[6] == {"type": "response.output_text.done", "sequence_number": 6, **place, "text": "Madrid", "logprobs": []}
    assert told[7]["part"] == part
    assert told[8]["item"] == whole["output"][0]


def test_a_response_that_ran_out_of_tokens_ends_incomplete(head: Head) -> None:
    """The last event's name says so."""
    told = streamed(head, Chunk("Mad", finish_reason=FinishReason.LENGTH))

    assert kinds(told)[-1] == "incomplete"
    assert told[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told[-2]["item"]["status"] == "incomplete"


def test_a_response_that_says_nothing_has_a_message(head: Head) -> None:
    """As the unary one has: it is added and done at the end."""
    told = streamed(head, Chunk(finish_reason=FinishReason.STOP))

    assert kinds(told) == ["created", "in_progress", *MESSAGE, *DONE, "completed"]
    assert told[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_calls_are_items_after_the_text(head: Head) -> None:
    """Each is added empty, gets its arguments and is done; where nothing was said there is no message before them."""
    end = Chunk(tool_calls=CALLS, finish_reason=FinishReason.TOOL_CALLS)
    both, alone = streamed(head, Chunk("Let me see"), end), streamed(head, end)

    assert kinds(both) == ["created", "in_progress", *MESSAGE, "output_text.delta", *DONE, *CALL, *CALL, "completed"]
    assert [event["output_index"] for event in both if event["type"] == "response.output_item.added"] == [0, 1, 2]
    assert kinds(alone) == ["created", "in_progress", *CALL, *CALL, "completed"]
    added, delta, arguments, done = alone[2:6]
    item = {"id": "fc_100", "type": "function_call", "status": "completed", "arguments": '{"a":1}', "call_id": "call_a", "name": "f"}
    assert added["item"] == item | {"status": "in_progress", "arguments": ""}
    assert (delta["delta"], arguments["arguments"], done["item"]) == ('{"a":1}', '{"a":1}', item)
    assert alone[-1]["response"]["output"] == [done["item"], alone[-2]["item"]]


def test_logprobs_come_with_the_text(head: Head) -> None:
    """Those of tokens without text come with the next, or with an empty delta; those of a call come with nothing."""
    said = streamed(
        head, Chunk("", logprobs=(HELLO,)), Chunk("Hé", logprobs=(LATER,)), Chunk(logprobs=(LATER,), finish_reason=FinishReason.STOP)
    )
    called = streamed(head, Chunk(logprobs=(HELLO,)), Chunk(tool_calls=CALLS[:1], finish_reason=FinishReason.TOOL_CALLS))
    entries = [
        {"token": "Hé", "bytes": [72, 195, 169], "logprob": -0.5, "top_logprobs": []},
        {"token": "y", "bytes": [121], "logprob": -1.5, "top_logprobs": []},
    ]

    deltas = [event for event in said if event["type"] == "response.output_text.delta"]
    assert [(event["delta"], event["logprobs"]) for event in deltas] == [("Hé", entries), ("", entries[1:])]
    assert said[-1]["response"]["output"][0]["content"][0]["logprobs"] == [*entries, entries[1]]
    assert kinds(called) == ["created", "in_progress", *CALL, "completed"]


def test_an_error_after_the_first_byte_fails_the_response(head: Head) -> None:
    """The typed error, which clients raise, then the response with its status; a foreign exception says nothing of itself."""
    stream = ResponseStream(head)
    *_, error, failed = events(stream.opening() + stream.chunk(Chunk("a")) + stream.error(EngineFailed()))
    sentence = "the engine failed; the reason is in the server's log"

    assert error == {
        "type": "error",
        "sequence_number": 5,
        "code": "engine_failed",
        "message": sentence,
        "param": None,
        "error": {"message": sentence, "type": "server_error", "param": None, "code": "engine_failed"},
    }
    assert failed["response"] == response_answers.response(head, "failed", error={"code": "server_error", "message": sentence})
    assert b"secret" not in ResponseStream(head).error(RuntimeError("secret"))


def test_openais_types_take_every_event(head: Head) -> None:
    """Strictly, each by its own type."""
    stream = ResponseStream(head)
    end = Chunk(tool_calls=CALLS, finish_reason=FinishReason.TOOL_CALLS)
    told = streamed(head, Chunk("x", logprobs=(HELLO,)), end) + events(stream.opening() + stream.error(EngineFailed()))
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

    assert [adapter.validate_python(event, strict=True).type for event in told] == [event["type"] for event in told]


@pytest.mark.parametrize("text", [" token", "é"])
def test_a_tokens_event_is_cheap(head: Head, text: str) -> None:
    """As a chat's: at 16 rows of 100 tokens a second an event may cost 10 microseconds; the best of several rounds, for a busy machine."""
    stream, chunk = ResponseStream(head), Chunk(text, tokens=(5,))

    def round_() -> float:
        start = time.perf_counter()
        for _ in range(200):
            stream.chunk(chunk)
        return (time.perf_counter() - start) / 200

    assert min(round_() for _ in range(20)) < 10e-6
