"""Whatever a client sends: a request, or a typed refusal. Never another exception, which would be a 500."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import InvalidRequest
from pilothouse.protocols import openai, responses
from pilothouse.protocols.failures import openai_error
from pilothouse.protocols.fields import document
from pilothouse.protocols.limits import Limits
from pilothouse.settings import Settings

LIMITS = Limits.from_settings(Settings(), vocabulary=1000)
NAMES = [
    *(
        "messages",
        "model",
        "stream",
        "stream_options",
        "include_usage",
        "prompt",
        "echo",
        "logprobs",
        "top_logprobs",
        "temperature",
        "top_p",
    ),
    *("top_k", "n", "seed", "stop", "stop_token_ids", "logit_bias", "max_tokens", "max_completion_tokens", "min_tokens", "user", "tools"),
    *("tool_choice", "parallel_tool_calls", "response_format", "json_schema", "schema", "name", "type", "function", "parameters", "strict"),
    *("role", "content", "text", "tool_calls", "tool_call_id", "id", "arguments", "modalities", "audio", "5", "$ref", "pattern", "refusal"),
    *(
        "input",
        "instructions",
        "max_output_tokens",
        "include",
        "format",
        "metadata",
        "call_id",
        "output",
        "annotations",
        "store",
        "truncation",
    ),
]
WORDS = [
    "user",
    "assistant",
    "tool",
    "system",
    "text",
    "function",
    "json_schema",
    "json_object",
    "auto",
    "none",
    "Hi",
    "f",
    "",
    "\ud800",
    "input_text",
    "function_call",
]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
ANY = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(WORDS), "content": st.just("Hi") | ANY}, optional={"tool_calls": ANY, "name": ANY})
BODIES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, ANY)
    | {"messages": st.lists(MESSAGE, max_size=3) | ANY, "prompt": st.just("Hi") | ANY, "input": st.lists(MESSAGE, max_size=3) | ANY},
)


def refused(translate: Callable[..., Any], *args: Any) -> InvalidRequest | None:
    """The refusal, None when it was accepted."""
    try:
        translate(*args)
    except InvalidRequest as error:
        return error
    return None


@pytest.mark.parametrize("translate", [openai.chat, openai.completion, responses.response])
def test_any_json_is_a_request_or_a_typed_refusal(translate: Callable[[Any, Limits], Any]) -> None:
    """Bodies that look like ours with anything in their fields; the refusal itself can always be sent."""

    @settings(max_examples=150, deadline=None)
    @given(body=BODIES | ANY)
    def property_(body: Any) -> None:
        error = refused(translate, body, LIMITS)

        assert error is None or json.dumps(openai_error(error), ensure_ascii=False).encode()

    property_()


@settings(max_examples=150, deadline=None)
@given(raw=st.binary(max_size=40) | ANY.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_a_typed_refusal(raw: bytes) -> None:
    """Bytes that are no JSON, JSON that is no object, objects with NaN or broken Unicode."""
    error = refused(document, raw)

    assert error is None or error.message.startswith("the body ")
