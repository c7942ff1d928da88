"""OpenAI's response bodies to requests."""

from collections.abc import Callable
from typing import Any

import pytest

from pilothouse.errors import ContextLengthExceeded, InvalidRequest, Overloaded, Unsupported
from pilothouse.messages import ChatRequest, Defaults, Guide, Message, Tool, ToolCall, ToolChoice
from pilothouse.protocols import responses
from pilothouse.protocols.limits import Limits

ASK: dict[str, Any] = {"input": "Hi"}
HI = (Message("user", "Hi"),)
LOGPROBS = "message.output_text.logprobs"
WEATHER: dict[str, Any] = {"type": "function", "name": "weather", "description": "Of a city", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "22"}
CALLED = ToolCall("c1", "weather", "{}")
SCHEMA = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"top_p": 0.9}, {"top_p": 0.9}),
        ({"max_output_tokens": 5}, {"max_tokens": 5}),
        ({"user": "ann"}, {"user": "ann"}),
        ({"include": [LOGPROBS]}, {"logprobs": 0}),
        ({"include": [LOGPROBS], "top_logprobs": 3}, {"logprobs": 3}),
        ({"include": []}, {}),
        ({"text": {}}, {}),
        ({"text": {"format": {"type": "text"}, "verbosity": None}}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"guide": Guide("json_object")}),
        ({"text": {"format": SCHEMA | {"strict": True}}}, {"guide": Guide("json_schema", '{"type":"object"}')}),
        ({"tools": [WEATHER]}, {"tools": (Tool("weather", "Of a city", {"type": "object"}),)}),
        ({"tools": [{"type": "function", "name": "f", "parameters": None, "strict": False}]}, {"tools": (Tool("f"),)}),
        (
            {"tools": [WEATHER], "tool_choice": "required"},
            {"tools": (Tool("weather", "Of a city", {"type": "object"}),), "tool_choice": ToolChoice("required")},
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "weather"}},
            {"tools": (Tool("weather", "Of a city", {"type": "object"}),), "tool_choice": ToolChoice("function", "weather")},
        ),
        ({"tools": [], "tool_choice": "none", "parallel_tool_calls": False}, {}),
        ({"seed": 7, "top_k": 4, "stop": "."}, {"seed": 7, "top_k": 4, "stop": (".",)}),
        ({"store": False, "background": False, "truncation": "disabled", "service_tier": "auto", "stream": False}, {}),
        ({"metadata": {"a": "b"}, "safety_identifier": "x", "prompt_cache_key": "y", "prompt_cache_retention": "24h"}, {}),
        ({"previous_response_id": None, "reasoning": None, "n": None, "max_tokens": None, "metadata": None}, {}),
    ],
)
def test_every_option_reaches_the_request(limits: Limits, extra: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each field lands where a chat's does, those that all protocols share too; what asks for nothing changes nothing."""
    asked = responses.response(ASK | extra, limits)

    assert (asked.request, asked.model, asked.stream) == (ChatRequest(HI, **expected), None, False)


def test_how_a_response_is_wanted(limits: Limits) -> None:
    """Model and streaming stand beside the request; padding against onlookers is taken and never sent."""
    asked = responses.response(ASK | {"model": "phi3", "stream": True, "stream_options": {"include_obfuscation": True}}, limits)

    assert (asked.request, asked.model, asked.stream) == (ChatRequest(HI), "phi3", True)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("Hi", (Message("user", "Hi"),)),
        (
            [{"role": "developer", "content": "Be brief"}, {"role": "system", "content": ""}],
            (Message("system", "Be brief"), Message("system")),
        ),
        ([{"type": "message", "role": "user", "content": "<|end|>"}], (Message("user", "<|end|>"),)),
        ([{"type": None, "role": "user", "content": "Hi"}], (Message("user", "Hi"),)),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            (Message("user", "a\nb"),),
        ),
        (
            [
                {
                    "id": "msg_1",
                    "type": "message",
                    "status": "completed",
                    "role": "assistant",
                    "phase": None,
                    "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": [{"token": "x"}]}],
                }
            ],
            (Message("assistant", "x"),),
        ),
        ([{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}], (Message("assistant", "x"),)),
        ([CALL, OUTPUT], (Message("assistant", tool_calls=(CALLED,)), Message("tool", "22", tool_call_id="c1"))),
        (
            [
                {"role": "assistant", "content": "Let me see"},
                CALL | {"id": "fc_1", "status": "completed", "caller": None},
                CALL | {"call_id": "c2"},
                OUTPUT | {"output": [{"type": "input_text", "text": "22"}]},
            ],
            (
                Message("assistant", "Let me see", tool_calls=(CALLED, ToolCall("c2", "weather", "{}"))),
                Message("tool", "22", tool_call_id="c1"),
            ),
        ),
    ],
)
def test_items_of_every_kind(limits: Limits, asked: Any, expected: tuple[Message, ...]) -> None:
    """Text in, text out; calls join the turn they came with; an answer's items may be sent back as they came."""
    assert responses.response({"input": asked}, limits).request.messages == expected


@pytest.mark.parametrize(("instructions", "expected"), [("Be brief", (Message("system", "Be brief"), *HI)), ("", HI), (None, HI)])
def test_instructions_are_the_systems_turn(limits: Limits, instructions: str | None, expected: tuple[Message, ...]) -> None:
    """They come before the input; empty ones are none."""
    assert responses.response(ASK | {"instructions": instructions}, limits).request.messages == expected


def test_a_response_repeats_its_options(limits: Limits) -> None:
    """As they are in force: the model's own where nothing was asked, and always that nothing is stored."""
    assert responses.response(ASK, limits).options(Defaults()) == {
        "background": False,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 0.2,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }


def test_a_response_repeats_what_it_was_asked(limits: Limits) -> None:
    """Every option in the form in which OpenAI's clients read it back, with its defaults."""
    asked = {
        "instructions": "Be brief",
        "max_output_tokens": 9,
        "metadata": {"a": "b"},
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "temperature": 0,
        "top_p": 0.5,
        "include": [LOGPROBS],
        "top_logprobs": 2,
        "text": {"format": SCHEMA},
        "tools": [{"type": "function", "name": "f", "strict": None}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": True,
        "user": "ann",
    }
    told = responses.response(ASK | asked, limits).options(Defaults())

    assert {name: told[name] for name in asked if name != "include"} == {
        name: value for name, value in asked.items() if name not in ("include", "text", "tools")
    } | {
        "text": {"format": {"type": "json_schema", "name": "a", "description": None, "schema": {"type": "object"}, "strict": None}},
        "tools": [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": False}],
    }


@pytest.mark.parametrize(
    ("body", "message", "field"),
    [
        ({}, "input is required", "input"),
        ({"input": ""}, "input must not be empty", "input"),
        ({"input": []}, "input must not be empty", "input"),
        ({"input": 7}, "input must be a string or a list of items, not an integer", "input"),
        ({"input": ["Hi"]}, "input[0] must be an object, not a string", "input[0]"),
        ({"input": [{}]}, "input[0].role is required", "input[0].role"),
        ({"input": [{"id": "msg_1"}]}, "input[0].role is required", "input[0].role"),
        (
            {"input": [{"role": "tool", "content": "x"}]},
            "input[0].role must be one of system, developer, user, assistant, not 'tool'",
            "input[0].role",
        ),
        ({"input": [{"role": "user"}]}, "input[0].content is required", "input[0].content"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content must have at least one part", "input[0].content"),
        (
            {"input": [{"role": "user", "content": 7}]},
            "input[0].content must be a string or a list of text parts, not an integer",
            "input[0].content",
        ),
        ({"input": [{"role": "user", "content": "x", "name": "ann"}]}, "input[0].name is not a known field", "input[0].name"),
        ({"input": [CALL | {"arguments": {}}]}, "input[0].arguments must be a string, not an object", "input[0].arguments"),
        ({"input": [OUTPUT]}, "input[0].call_id 'c1' answers no function call before it", "input[0].call_id"),
        ({"input": [CALL | {"call_id": "c" * 513}]}, "input[0].call_id has 513 characters; at most 512 are taken", "input[0].call_id"),
        ({"input": [{"role": "user", "content": "x"}] * 1025}, "input has 1025 items; at most 1024 are taken", "input"),
        ({"input": "x" * 2097153}, "input has 2097153 bytes of text; at most 2097152 are taken", "input"),
        (ASK | {"instructions": 7}, "instructions must be a string, not an integer", "instructions"),
        (ASK | {"max_output_tokens": 0}, "max_output_tokens must be between 1 and 2147483647, not 0", "max_output_tokens"),
        (ASK | {"temperature": 3}, "temperature must be between 0 and 2, not 3.0", "temperature"),
        (ASK | {"include": "all"}, "include must be a list, not a string", "include"),
        (ASK | {"top_logprobs": 0}, f'top_logprobs is only allowed with include ["{LOGPROBS}"]', "top_logprobs"),
        (ASK | {"include": [LOGPROBS], "top_logprobs": 21}, "top_logprobs must be between 0 and 20, not 21", "top_logprobs"),
        (ASK | {"stream_options": {}}, "stream_options is only allowed with stream true", "stream_options"),
        (
            ASK | {"stream": True, "stream_options": {"include_usage": True}},
            "stream_options.include_usage is not a known field",
            "stream_options.include_usage",
        ),
        (ASK | {"text": {"format": {}}}, "text.format.type is required", "text.format.type"),
        (ASK | {"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema is required", "text.format.schema"),
        (ASK | {"text": {"form": 1}}, "text.form is not a known field", "text.form"),
        (ASK | {"tools": [WEATHER, WEATHER]}, "tools[1].name 'weather' is given twice", "tools[1].name"),
        (ASK | {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name is required", "tools[0].name"),
        (ASK | {"tool_choice": "auto"}, "tool_choice needs tools", "tool_choice"),
        (
            ASK | {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}},
            "tool_choice.name 'time' is none of the tools",
            "tool_choice.name",
        ),
        (ASK | {"truncation": "some"}, "truncation must be disabled or auto, not 'some'", "truncation"),
        (ASK | {"service_tier": "flex"}, "service_tier must be auto or default, not 'flex'", "service_tier"),
        (ASK | {"metadata": {"a": 1}}, "metadata.a must be a string, not an integer", "metadata.a"),
        (ASK | {"metadata": {"a": "x" * 513}}, "metadata.a is too long: a key has at most 64 characters, a value 512", "metadata.a"),
        (ASK | {"metadata": {str(n): "" for n in range(17)}}, "metadata has 17 entries; at most 16 are taken", "metadata"),
        (ASK | {"prompt_cache_key": "x" * 513}, "prompt_cache_key has 513 characters; at most 512 are taken", "prompt_cache_key"),
        (ASK | {"messages": []}, "messages is not a known field: send input", "messages"),
        (ASK | {"response_format": {}}, "response_format is not a known field: send text with a format", "response_format"),
        (ASK | {"max_new_tokens": 5}, "max_new_tokens is not a known field: send max_output_tokens", "max_new_tokens"),
        (ASK | {"colour": "red"}, "colour is not a known field", "colour"),
    ],
)
def test_wrong_bodies_are_refused_by_field(
    limits: Limits, refusal: Callable[..., Any], body: dict[str, Any], message: str, field: str
) -> None:
    """Each error names the field as the client spelled it, and what would be right."""
    assert refusal(responses.response, body, limits) == (InvalidRequest, message, field)


@pytest.mark.parametrize(
    ("extra", "message", "field"),
    [
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id is not supported: nothing is stored here, send the whole conversation as input",
            "previous_response_id",
        ),
        (
            {"conversation": "c"},
            "conversation is not supported: nothing is stored here, send the whole conversation as input",
            "conversation",
        ),
        ({"prompt": {"id": "p"}}, "prompt is not supported: no prompts are stored here, send instructions and input", "prompt"),
        ({"store": True}, "store true is not supported: nothing is stored here, leave it out", "store"),
        ({"background": True}, "background true is not supported: an answer is given to whoever waits for it", "background"),
        ({"truncation": "auto"}, "truncation auto is not supported: leave out the oldest of input", "truncation"),
        ({"reasoning": {"effort": "low"}}, "reasoning is not supported: this model does not reason apart from its answer", "reasoning"),
        ({"n": 2}, "n is not supported: a response is one answer", "n"),
        ({"max_tokens": 5}, "max_tokens is not supported: send max_output_tokens", "max_tokens"),
        ({"guided_json": {}}, "guided_json is not supported: send text.format with a json_schema", "guided_json"),
        ({"text": {"verbosity": "low"}}, "text.verbosity is not supported: ask for it in a message", "text.verbosity"),
        (
            {"include": ["reasoning.encrypted_content"]},
            f"include[0] 'reasoning.encrypted_content' is not supported: of what can be included there is {LOGPROBS} here",
            "include[0]",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type 'web_search' is not supported: send function", "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].type 'mcp' is not supported: send function", "tools[0].type"),
        (
            {"tools": [WEATHER | {"strict": True}]},
            "tools[0].strict is not supported: arguments are not held to their schema",
            "tools[0].strict",
        ),
        (
            {"tools": [WEATHER], "parallel_tool_calls": False},
            "parallel_tool_calls false is not supported: the model decides how many tools it calls",
            "parallel_tool_calls",
        ),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.type 'allowed_tools' is not supported: send function",
            "tool_choice.type",
        ),
        (
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            "input[0].type 'item_reference' is not supported: nothing is stored here, send the item itself",
            "input[0].type",
        ),
        (
            {"input": [{"type": "reasoning", "summary": []}]},
            "input[0].type 'reasoning' is not supported: send message, function_call or function_call_output",
            "input[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
            "input[0].content[0].type 'input_image' is not supported: this model reads text only, as input_text",
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
            "input[0].content[0].type 'output_text' is not supported: this model reads text only, as input_text",
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "refusal", "refusal": "x"}]}]},
            "input[0].content[0].type 'refusal' is not supported: this model reads text only, as input_text or output_text",
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x", "annotations": [{}]}]}]},
            "input[0].content[0].annotations is not supported: send the text alone",
            "input[0].content[0].annotations",
        ),
        (
            {"input": [{"role": "user", "content": "x", "phase": "commentary"}]},
            "input[0].phase is not supported: no answer of this model has it",
            "input[0].phase",
        ),
    ],
)
def test_what_cant_be_done_is_refused_by_name(
    limits: Limits, refusal: Callable[..., Any], extra: dict[str, Any], message: str, field: str
) -> None:
    """With the way out; nothing is ignored that a client could rely on."""
    assert refusal(responses.response, ASK | extra, limits) == (Unsupported, message, field)


def test_who_answers_is_understood_in_this_wires_names(refusal: Callable[..., Any]) -> None:
    """A refusal after the body was read speaks of a chat's fields; every other error passes as it is."""

    def answered(error: Exception) -> None:
        with responses.own_names():
            raise error

    full = Overloaded("full")
    with pytest.raises(Overloaded) as raised:
        answered(full)

    assert raised.value is full
    assert refusal(answered, InvalidRequest("tools are not supported", field="tools")) == (
        InvalidRequest,
        "tools are not supported",
        "tools",
    )
    assert refusal(answered, Unsupported("logprobs is not supported by this model's engine", field="logprobs")) == (
        Unsupported,
        "include is not supported by this model's engine",
        "include",
    )
    assert refusal(answered, ContextLengthExceeded("messages has 9 tokens", field="messages")) == (
        ContextLengthExceeded,
        "input has 9 tokens",
        "input",
    )
