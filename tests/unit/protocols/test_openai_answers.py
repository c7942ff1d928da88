"""Unary answers, word for word, and as the openai package parses them."""

import pytest
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion

from pilothouse.messages import Answer, Choice, FinishReason, TokenLogprob, ToolCall, Usage
from pilothouse.protocols.openai_answers import chat_answer, completion_answer, model_card, models_list
from support.strictly import unknown

USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=4)
COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}}
HALF = TokenLogprob("\ufffd", 8, float("-inf"), b"\xe2\x82")
MADRID = TokenLogprob(" Madrid", 5, -0.25, b" Madrid", top=(TokenLogprob(" Madrid", 5, -0.25, b" Madrid"), HALF))
PLAIN = Answer((Choice(0, "Madrid.", FinishReason.STOP),), USAGE)
SCORED = Answer((Choice(0, " Madrid", FinishReason.LENGTH, logprobs=(MADRID, HALF)),), USAGE)
CALLS = Answer((Choice(0, "", FinishReason.TOOL_CALLS, tool_calls=(ToolCall("c1", "weather", '{"city":"X"}'),)),), USAGE)
MANY = Answer((Choice(0, "a", FinishReason.STOP), Choice(1, "b", FinishReason.LENGTH)), USAGE)


def test_a_chat_answer() -> None:
    """The whole object, every field of it."""
    assert chat_answer("chatcmpl-1", 1700000000, "phi3", PLAIN) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "phi3",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Madrid.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": COUNTS,
    }


def test_tool_calls_have_no_content() -> None:
    """A choice that calls tools says so in finish_reason, and its content is null."""
    choice = chat_answer("i", 1, "m", CALLS)["choices"][0]

    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"X"}'}}],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
    }


def test_chat_logprobs() -> None:
    """One entry for each token with its bytes and the likeliest beside it; never minus infinity, which JSON has not."""
    assert chat_answer("i", 1, "m", SCORED)["choices"][0]["logprobs"] == {
        "content": [
            {
                "token": " Madrid",
                "bytes": [32, 77, 97, 100, 114, 105, 100],
                "logprob": -0.25,
                "top_logprobs": [
                    {"token": " Madrid", "bytes": [32, 77, 97, 100, 114, 105, 100], "logprob": -0.25},
                    {"token": "\ufffd", "bytes": [226, 130], "logprob": -9999.0},
                ],
            },
            {"token": "\ufffd", "bytes": [226, 130], "logprob": -9999.0, "top_logprobs": []},
        ],
        "refusal": None,
    }


def test_a_completion_of_several_prompts() -> None:
    """Choices are numbered through all prompts, and the usage is all of theirs."""
    assert completion_answer("cmpl-1", 1700000000, "phi3", [MANY, PLAIN]) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1700000000,
        "model": "phi3",
        "choices": [
            {"index": 0, "text": "a", "logprobs": None, "finish_reason": "stop"},
            {"index": 1, "text": "b", "logprobs": None, "finish_reason": "length"},
            {"index": 2, "text": "Madrid.", "logprobs": None, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 14, "completion_tokens": 6, "total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 8}},
    }


def test_completion_logprobs() -> None:
    """Four lists of one length; the chosen token is always among the likeliest."""
    assert completion_answer("i", 1, "m", [SCORED])["choices"][0]["logprobs"] == {
        "tokens": [" Madrid", "\ufffd"],
        "token_logprobs": [-0.25, -9999.0],
        "top_logprobs": [{" Madrid": -0.25, "\ufffd": -9999.0}, {"\ufffd": -9999.0}],
        "text_offset": [0, 7],
    }


def test_the_model_list() -> None:
    """One model, under the one name; what is ours stands under one key."""
    assert models_list([model_card("phi3", 1700000000, {"engine": "paged"})]) == {
        "object": "list",
        "data": [
            {"id": "phi3", "object": "model", "created": 1700000000, "owned_by": "pilothouse", "pilothouse": {"engine": "paged"}},
        ],
    }


@pytest.mark.parametrize("answer", [PLAIN, SCORED, CALLS, MANY])
def test_openais_types_take_every_chat_answer(answer: Answer) -> None:
    """Strictly: no coercion, no unknown field."""
    assert unknown(ChatCompletion, chat_answer("i", 1, "m", answer)) == []


@pytest.mark.parametrize("answer", [PLAIN, SCORED, MANY])
def test_openais_types_take_every_completion(answer: Answer) -> None:
    """Strictly: no coercion, no unknown field."""
    assert unknown(Completion, completion_answer("i", 1, "m", [answer, PLAIN])) == []


def test_openais_types_take_the_model_card() -> None:
    """Strictly: no coercion, no unknown field."""
    assert unknown(Model, model_card("phi3", 1)) == []
