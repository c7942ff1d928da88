"""Schemas of chats and raw prompts, and of the options that all protocols share."""

from pilothouse.protocols.conversation import ECHOED, EMPTY
from pilothouse.protocols.limits import BIAS, INT32, INT64, MAX_BIASES, MAX_NAME, MAX_STOP_IDS, SAMPLING, Bound, Limits
from pilothouse.protocols.openai import CHAT_REFUSED, COMPLETION_REFUSED, IGNORED
from pilothouse.protocols.openapi.schemas import (
    ANYTHING,
    BOOLEAN,
    NULL,
    TEXT,
    Schema,
    fixed,
    given,
    implies,
    integer,
    items,
    maybe,
    ref,
    refused,
    settable,
    text,
    thing,
)

IDENTIFIER: Schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}
NAME = text(longest=MAX_NAME)


def chats(limits: Limits) -> dict[str, Schema]:
    """Every schema here by its name in the document."""
    return {
        **_messages(limits),
        **_tools(),
        "ResponseFormat": _response_format(),
        "ChatCompletionRequest": _chat(limits),
        "CompletionRequest": _completion(limits),
        "UnservedRequest": {"type": "object"},
    }


def options(limits: Limits) -> dict[str, Schema]:
    """The sampling options, as every protocol has them."""
    token = integer(0, limits.vocabulary - 1)
    stop = text(1, limits.max_stop_bytes)
    return {name: _number(bound) for name, bound in SAMPLING.items()} | {
        "top_k": integer(0, INT32) | {"description": "0: all tokens."},
        "logit_bias": {
            "type": "object",
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,9})$"},
            "additionalProperties": _number(BIAS),
            "maxProperties": MAX_BIASES,
            "description": "Token ids, in decimal, to what is added to their logits.",
        },
        "seed": integer(-INT64 - 1, INT64),
        "max_tokens": integer(1, limits.most_tokens) | {"description": "Tokens of the answer; unset: the model's default."},
        "max_completion_tokens": integer(1, limits.most_tokens) | {"description": "Wins over max_tokens."},
        "min_tokens": integer(0, limits.most_tokens) | {"description": "At most max_tokens."},
        "stop": {"anyOf": [stop, items(stop, most=limits.max_stop)]},
        "stop_token_ids": items(token, most=MAX_STOP_IDS),
        "ignore_eos": BOOLEAN,
        "n": integer(1, limits.max_n),
        "user": NAME | {"description": "For the log."},
    }


def _number(bound: Bound) -> Schema:
    low = "exclusiveMinimum" if bound.open else "minimum"
    return {"type": "number", low: bound.low, "maximum": bound.high}


def _messages(limits: Limits) -> dict[str, Schema]:
    part = thing({"type": fixed("text"), "text": TEXT})
    content: Schema = {"anyOf": [TEXT, items(part, 1, limits.max_messages)]}
    empty: dict[str, Schema] = {name: {"enum": list(EMPTY)} for name in ECHOED}
    function = thing({"name": TEXT, "arguments": TEXT})
    call = thing({"id": TEXT, "function": function}, {"type": maybe(fixed("function")), "index": ANYTHING})
    calls, name = items(call, 1, limits.max_messages), settable({"name": NAME})
    said = thing(
        {"role": fixed("assistant"), "content": content}, {**name, **empty, "tool_calls": maybe(items(call, most=limits.max_messages))}
    )
    called = thing({"role": fixed("assistant"), "tool_calls": calls}, {**name, **empty, "content": maybe(content)})
    return {
        "Message": {
            "anyOf": [
                thing({"role": {"enum": ["system", "developer", "user"]}, "content": content}, name),
                said,
                called,
                thing({"role": fixed("tool"), "content": content, "tool_call_id": NAME}, name),
            ],
            "description": "Text parts are joined by a new line. A tool's answer names a call before it.",
        },
        "Messages": items(ref("Message"), 1, limits.max_messages),
    }


def _tools() -> dict[str, Schema]:
    function = thing(
        {"name": IDENTIFIER},
        settable({"description": TEXT, "parameters": {"type": "object"}, "strict": fixed(False)}),
    )
    return {
        "Tool": thing({"type": fixed("function"), "function": function}),
        "ToolChoice": {
            "anyOf": [
                {"enum": ["none", "auto", "required"]},
                thing({"type": fixed("function"), "function": thing({"name": IDENTIFIER})}),
            ]
        },
    }


def _response_format() -> Schema:
    named = thing({"name": IDENTIFIER, "schema": {"type": "object"}}, settable({"description": TEXT, "strict": BOOLEAN}))
    return {
        "anyOf": [
            thing({"type": {"enum": ["text", "json_object"]}}),
            thing({"type": fixed("json_schema"), "json_schema": named}),
        ],
        "description": "A schema is bounded in bytes, depth and patterns, and refers to nothing outside itself.",
    }


def _streaming() -> dict[str, Schema]:
    stream_options = thing({}, settable({"include_usage": BOOLEAN, "include_obfuscation": BOOLEAN, "continuous_usage_stats": BOOLEAN}))
    return settable({"model": TEXT, "stream": BOOLEAN, "stream_options": stream_options})


STREAMED = implies(given(stream_options={"type": "object"}), given(stream=fixed(True)))


def chat_fields(limits: Limits) -> dict[str, Schema]:
    """What a chat may have beside its messages, over OpenAI and MLflow alike."""
    return {
        **settable(options(limits)),
        **settable(
            {
                "logprobs": BOOLEAN,
                "top_logprobs": integer(0, limits.max_top_logprobs),
                "response_format": ref("ResponseFormat"),
                "tools": items(ref("Tool"), most=limits.max_tools),
                "tool_choice": ref("ToolChoice"),
                "parallel_tool_calls": BOOLEAN,
                "modalities": items(fixed("text"), most=1),
            }
        ),
        **refused(CHAT_REFUSED),
    }


SCORED = implies(given(top_logprobs={"type": "integer"}), given(logprobs=fixed(True)))
TOOLED = implies(given(tool_choice={"not": {"enum": [None, "none"]}}), given(tools={"type": "array", "minItems": 1}))
PARALLEL = implies(given(parallel_tool_calls=fixed(False)), {"properties": {"tools": {"maxItems": 0}}})


def _chat(limits: Limits) -> Schema:
    optional = {**_streaming(), **chat_fields(limits), **dict.fromkeys(IGNORED, ANYTHING)}
    return thing({"messages": ref("Messages")}, optional, allOf=[STREAMED, SCORED, TOOLED, PARALLEL])


def _completion(limits: Limits) -> Schema:
    ids = items(integer(0, limits.vocabulary - 1), 1)
    prompt = {"anyOf": [text(1), items(text(1), 1, limits.max_rows), ids, items(ids, 1, limits.max_rows)]}
    own = {"echo": BOOLEAN, "logprobs": integer(0, limits.max_top_logprobs), "response_format": ref("ResponseFormat")}
    optional = {
        **_streaming(),
        **settable(options(limits)),
        **settable(own),
        **refused(COMPLETION_REFUSED),
        **dict.fromkeys(IGNORED, ANYTHING),
    }
    alone = implies(given(echo=fixed(True)), {"properties": {"logprobs": NULL}})
    return thing({"prompt": prompt}, optional, allOf=[STREAMED, alone])
