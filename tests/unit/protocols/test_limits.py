"""The bounds of every parameter: the same on every protocol."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import InvalidRequest
from pilothouse.messages import ChatRequest, Guide, Message, Tool, ToolCall
from pilothouse.protocols.limits import Limits
from pilothouse.settings import Settings

ASK = ChatRequest(messages=(Message("user", "Hello"),))
INT32, INT64 = 2**31 - 1, 2**63 - 1


@pytest.mark.parametrize(
    ("changes", "message", "field"),
    [
        ({"temperature": -0.1}, "temperature must be between 0 and 2, not -0.1", "temperature"),
        ({"temperature": 2.1}, "temperature must be between 0 and 2, not 2.1", "temperature"),
        ({"temperature": math.nan}, "temperature must be between 0 and 2, not nan", "temperature"),
        ({"temperature": math.inf}, "temperature must be between 0 and 2, not inf", "temperature"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0", "top_p"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, not 1.5", "top_p"),
        ({"min_p": -0.5}, "min_p must be between 0 and 1, not -0.5", "min_p"),
        ({"min_p": 1.5}, "min_p must be between 0 and 1, not 1.5", "min_p"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty must be between 0.01 and 2, not 5e-324", "repetition_penalty"),
        ({"repetition_penalty": 2.5}, "repetition_penalty must be between 0.01 and 2, not 2.5", "repetition_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty must be between -2 and 2, not -2.5", "presence_penalty"),
        ({"frequency_penalty": 2.5}, "frequency_penalty must be between -2 and 2, not 2.5", "frequency_penalty"),
        ({"top_k": -1}, f"top_k must be between 0 and {INT32} (0: all tokens), not -1", "top_k"),
        ({"top_k": 2**31}, f"top_k must be between 0 and {INT32} (0: all tokens), not 2147483648", "top_k"),
        ({"seed": 2**63}, f"seed must be between {-INT64 - 1} and {INT64}, not 9223372036854775808", "seed"),
        ({"seed": -(2**63) - 1}, f"seed must be between {-INT64 - 1} and {INT64}, not -9223372036854775809", "seed"),
        ({"seed": 10**30}, f"seed must be between {-INT64 - 1} and {INT64}, not an integer beyond 64 bits", "seed"),
        ({"logit_bias": ((1000, 1.0),)}, "logit_bias has token 1000; the model's tokens are 0 to 999", "logit_bias"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias has token -1; the model's tokens are 0 to 999", "logit_bias"),
        ({"logit_bias": ((5, 100.5),)}, "logit_bias of token 5 must be between -100 and 100, not 100.5", "logit_bias"),
        ({"logit_bias": ((5, math.nan),)}, "logit_bias of token 5 must be between -100 and 100, not nan", "logit_bias"),
        ({"logit_bias": ((5, 1.0),) * 1025}, "logit_bias has 1025 tokens; at most 1024 are taken", "logit_bias"),
        ({"max_tokens": 0}, f"max_tokens must be between 1 and {INT32}, not 0", "max_tokens"),
        ({"max_tokens": 2**31}, f"max_tokens must be between 1 and {INT32}, not 2147483648", "max_tokens"),
        ({"min_tokens": -1}, f"min_tokens must be between 0 and {INT32}, not -1", "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens must be between 0 and 5, not 6", "min_tokens"),
        ({"n": 0}, "n must be between 1 and 8, not 0", "n"),
        ({"n": 9}, "n must be between 1 and 8, not 9", "n"),
        ({"stop": ("",)}, "stop must not hold an empty string", "stop"),
        ({"stop": ("a",) * 17}, "stop has 17 strings; at most 16 are taken", "stop"),
        ({"stop": ("é" * 129,)}, "stop has a string of 258 bytes; at most 256 are taken", "stop"),
        ({"stop_token_ids": (1000,)}, "stop_token_ids has token 1000; the model's tokens are 0 to 999", "stop_token_ids"),
        ({"stop_token_ids": (1,) * 129}, "stop_token_ids has 129 tokens; at most 128 are taken", "stop_token_ids"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20, not 21", "logprobs"),
        ({"logprobs": -1}, "logprobs must be between 0 and 20, not -1", "logprobs"),
        ({"tools": (Tool("f"),) * 129}, "tools has 129 tools; at most 128 are taken", "tools"),
        ({"user": "u" * 513}, "user has 513 characters; at most 512 are taken", "user"),
        (
            {"guide": Guide("json_schema", "x" * 65537)},
            "response_format has a schema of 65537 bytes; at most 65536 are taken",
            "response_format",
        ),
        ({"messages": ()}, "exactly one of messages and prompt must be given", "messages"),
        ({"prompt": "x"}, "exactly one of messages and prompt must be given", "messages"),
        ({"messages": (), "prompt": ""}, "prompt must not be empty", "prompt"),
        ({"messages": (), "prompt": ()}, "prompt must not be empty", "prompt"),
        ({"messages": (), "prompt": (1, 1000)}, "prompt has token 1000; the model's tokens are 0 to 999", "prompt"),
        ({"messages": (Message("user", "x"),) * 1025}, "messages has 1025 messages; at most 1024 are taken", "messages"),
        (
            {"messages": (Message("user", "é" * 2**20), Message("user", "."))},
            "messages has 2097153 bytes of text; at most 2097152 are taken",
            "messages",
        ),
        (
            {"messages": (Message("assistant", "", tool_calls=(ToolCall("1", "f", "x" * 2**21),)),)},
            "messages has 2097153 bytes of text; at most 2097152 are taken",
            "messages",
        ),
        ({"messages": (), "prompt": "x" * (2**21 + 1)}, "prompt has 2097153 bytes of text; at most 2097152 are taken", "prompt"),
        (
            {"messages": (Message("user", "x", name="n" * 513),)},
            "messages[0].name has 513 characters; at most 512 are taken",
            "messages[0].name",
        ),
        (
            {"messages": (Message("tool", "x", tool_call_id="n" * 513),)},
            "messages[0].tool_call_id has 513 characters; at most 512 are taken",
            "messages[0].tool_call_id",
        ),
    ],
)
def test_over_a_bound_the_field_its_value_and_the_bound_are_named(
    limits: Limits, refusal: Callable[..., Any], changes: dict[str, Any], message: str, field: str
) -> None:
    """Every parameter has bounds, and the refusal says which was broken and how."""
    assert refusal(limits.check, replace(ASK, **changes)) == (InvalidRequest, message, field)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 2.0},
        {"top_p": 1.0},
        {"top_p": 1e-9},
        {"top_k": 0},
        {"min_p": 0.0},
        {"min_p": 1.0},
        {"repetition_penalty": 2.0},
        {"presence_penalty": -2.0},
        {"frequency_penalty": 2.0},
        {"logit_bias": ((0, -100.0), (999, 100.0))},
        {"seed": INT64},
        {"seed": -INT64 - 1},
        {"max_tokens": INT32},
        {"max_tokens": 5, "min_tokens": 5},
        {"n": 8},
        {"stop": ("a" * 256,) * 16},
        {"logprobs": 20},
        {"logprobs": 0},
        {"messages": (), "prompt": (0, 999)},
        {"messages": (), "prompt": "x" * 2**21},
        {"messages": (Message("user", "x"),) * 1024},
    ],
)
def test_the_bounds_themselves_are_allowed(limits: Limits, changes: dict[str, Any]) -> None:
    """A bound is the last value that works."""
    limits.check(replace(ASK, **changes))


def test_the_administrators_limit_bounds_max_tokens(limits: Limits, refusal: Callable[..., Any]) -> None:
    """With PILOTHOUSE_MAX_TOKENS set, more is refused, not cut."""
    small = replace(limits, max_tokens=100)

    small.check(replace(ASK, max_tokens=100))
    assert refusal(small.check, replace(ASK, max_tokens=101)) == (
        InvalidRequest,
        "max_tokens must be between 1 and 100, not 101",
        "max_tokens",
    )


def test_a_field_is_named_as_its_wire_calls_it(limits: Limits, refusal: Callable[..., Any]) -> None:
    """OpenAI's top_logprobs is our logprobs; the client reads its own word."""
    found = refusal(limits.check, replace(ASK, logprobs=21), {"logprobs": "top_logprobs"})

    assert found == (InvalidRequest, "top_logprobs must be between 0 and 20, not 21", "top_logprobs")


def test_rows_are_bounded_together(limits: Limits, refusal: Callable[..., Any]) -> None:
    """Many small rows are one big request: their number and all their text count."""
    row = ChatRequest(prompt="x" * 2**16)

    limits.check_rows([row] * 32, "prompt")
    assert refusal(limits.check_rows, [row] * 33, "prompt") == (
        InvalidRequest,
        "prompt has 2162688 bytes of text; at most 2097152 are taken",
        "prompt",
    )
    assert refusal(limits.check_rows, [ASK] * 65, "inputs") == (
        InvalidRequest,
        "inputs has 65 rows; at most 64 are taken",
        "inputs",
    )
    assert refusal(limits.check_rows, [], "inputs") == (InvalidRequest, "inputs must have at least one row", "inputs")
    assert refusal(limits.check_rows, [ASK, replace(ASK, n=9)], "inputs") == (InvalidRequest, "n must be between 1 and 8, not 9", "n")


def test_every_limit_is_a_setting() -> None:
    """No bound hides in the code that an administrator would look for: all but the vocabulary come from settings of the same name."""
    chosen = Settings(max_n=3, max_tokens=77)
    limits = Limits.from_settings(chosen, vocabulary=5)

    assert {f.name: getattr(limits, f.name) for f in fields(Limits)} == {
        "max_messages": 1024,
        "max_content_bytes": 2097152,
        "max_rows": 64,
        "max_n": 3,
        "max_stop": 16,
        "max_stop_bytes": 256,
        "max_tools": 128,
        "max_schema_bytes": 65536,
        "max_schema_depth": 32,
        "max_top_logprobs": 20,
        "max_tokens": 77,
        "vocabulary": 5,
    }


@settings(max_examples=200, deadline=None)
@given(
    temperature=st.none() | st.floats(),
    top_p=st.none() | st.floats(),
    top_k=st.none() | st.integers(),
    seed=st.none() | st.integers(),
    biases=st.lists(st.tuples(st.integers(), st.floats()), max_size=3),
)
def test_it_passes_exactly_when_every_number_is_inside(
    temperature: float | None, top_p: float | None, top_k: int | None, seed: int | None, biases: list[tuple[int, float]]
) -> None:
    """Any numbers at all, NaN and infinities too."""
    limits = Limits.from_settings(Settings(), vocabulary=1000)
    inside = (
        (temperature is None or 0 <= temperature <= 2)
        and (top_p is None or 0 < top_p <= 1)
        and (top_k is None or 0 <= top_k < 2**31)
        and (seed is None or -(2**63) <= seed < 2**63)
        and all(0 <= token < 1000 and -100 <= bias <= 100 for token, bias in biases)
    )
    request = replace(ASK, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, logit_bias=tuple(biases))

    with nullcontext() if inside else pytest.raises(InvalidRequest):
        limits.check(request)
