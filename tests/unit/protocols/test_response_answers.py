"""Whole responses, word for word, and as the openai package parses them."""

import pytest
from openai.types.responses import Response

from pilothouse.messages import Answer, Choice, Defaults, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols import response_answers, responses
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.response_answers import Head
from support.strictly import unknown

USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
MADRID = TokenLogprob(" Madrid", 5, -0.25, b" Madrid", top=(TokenLogprob(" Madrid", 5, -0.25, b" Madrid"),))
PLAIN = Choice(0, "Madrid.", FinishReason.STOP)
CUT = Choice(0, " Madrid", FinishReason.LENGTH, logprobs=(MADRID,))
CALLS = (ToolCall("call_a", "weather", '{"city":"X"}'), ToolCall("call_b", "time", "{}"))
CALLED = Choice(0, "", FinishReason.TOOL_CALLS, tool_calls=CALLS)
BOTH = Choice(0, "Let me see", FinishReason.TOOL_CALLS, tool_calls=CALLS[:1])
SILENT = Choice(0, "", FinishReason.STOP)


@pytest.fixture
def head(limits: Limits) -> Head:
    """Of a response that asked for as much as it can."""
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    form = {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": True}
    body = {
        "input": "Hi",
        "tools": [tool],
        "tool_choice": "auto",
        "text": {"format": form},
        "metadata": {"a": "b"},
        "instructions": "Be brief",
    }
    return Head("resp_1", 1700000000, "phi3", responses.response(body, limits).options(Defaults()))


def test_a_whole_response() -> None:
    """Every field of it, its options between them."""
    told = response_answers.answer(Head("resp_1", 1700000000, "phi3", {"store": False}), 1700000009, Answer((PLAIN,), USAGE))

    assert told == {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "completed_at": 1700000009,
        "error": None,
        "incomplete_details": None,
        "model": "phi3",
        "output": [
            {
                "id": "msg_100",
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "Madrid."}],
            }
        ],
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 10,
        },
        "store": False,
    }


def test_a_response_that_ran_out_of_tokens_is_incomplete(head: Head) -> None:
    """It says why, its message too, and it was never completed."""
    told = response_answers.answer(head, 1700000009, Answer((CUT,), USAGE))

    assert (told["status"], told["completed_at"]) == ("incomplete", None)
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told["output"][0]["status"] == "incomplete"
    entry = {"token": " Madrid", "bytes": list(b" Madrid"), "logprob": -0.25}
    assert told["output"][0]["content"][0]["logprobs"] == [entry | {"top_logprobs": [entry]}]


def test_calls_are_items_of_their_own(head: Head) -> None:
    """Each with its own id and the call's; a message stands before them only where something was said."""
    alone, both = (response_answers.answer(head, 1, Answer((choice,), USAGE))["output"] for choice in (CALLED, BOTH))

    assert alone == [
        {
            "id": "fc_100",
            "type": "function_call",
            "status": "completed",
            "arguments": '{"city":"X"}',
            "call_id": "call_a",
            "name": "weather",
        },
        {"id": "fc_101", "type": "function_call", "status": "completed", "arguments": "{}", "call_id": "call_b", "name": "time"},
    ]
    assert [item["type"] for item in both] == ["message", "function_call"]


def test_an_answer_that_says_nothing_has_a_message(head: Head) -> None:
    """Its text is empty, as a chat's is."""
    (item,) = response_answers.answer(head, 1, Answer((SILENT,), USAGE))["output"]

    assert item["content"] == [{"type": "output_text", "annotations": [], "logprobs": [], "text": ""}]


@pytest.mark.parametrize("choice", [PLAIN, CUT, CALLED, BOTH, SILENT])
def test_openais_type_takes_every_response(head: Head, choice: Choice) -> None:
    """Strictly."""
    assert unknown(Response, response_answers.answer(head, 1700000009, Answer((choice,), USAGE))) == ["store"]  # which OpenAI sends
