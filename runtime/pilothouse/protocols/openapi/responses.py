"""Schemas of `/v1/responses`: what is asked, the response, and the events of its stream."""

from pilothouse.protocols.conversation import EMPTY
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openapi.answers import NUMBER
from pilothouse.protocols.openapi.chats import IDENTIFIER, NAME, PARALLEL, STREAMED, TOOLED, options
from pilothouse.protocols.openapi.schemas import (
    ANYTHING,
    BOOLEAN,
    COUNT,
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
from pilothouse.protocols.response_items import OF_OTHERS, UNREAD
from pilothouse.protocols.responses import IGNORED, LOGPROBS, MAX_KEY, MAX_METADATA, MAX_VALUE, REFUSED

_OBJECT: Schema = {"type": "object"}
_FORMAT = thing({"type": fixed("json_schema"), "name": IDENTIFIER, "schema": _OBJECT}, settable({"description": TEXT, "strict": BOOLEAN}))
_METADATA: Schema = {
    "type": "object",
    "propertyNames": {"maxLength": MAX_KEY},
    "additionalProperties": text(longest=MAX_VALUE),
    "maxProperties": MAX_METADATA,
}


def responses(limits: Limits) -> dict[str, Schema]:
    """Every schema here by its name in the document."""
    return {**_asked(limits), **_told(), "ResponseEvent": {"anyOf": _events()}}


def _asked(limits: Limits) -> dict[str, Schema]:
    return {
        "ResponseItem": {"anyOf": _items(limits), "description": "Text parts are joined by a new line. An output names a call before it."},
        "ResponseTextFormat": {"anyOf": [thing({"type": {"enum": ["text", "json_object"]}}), _FORMAT]},
        "ResponseTool": thing(
            {"type": fixed("function"), "name": IDENTIFIER},
            settable({"description": TEXT, "parameters": _OBJECT, "strict": fixed(False)}),
        ),
        "ResponseToolChoice": {
            "anyOf": [{"enum": ["none", "auto", "required"]}, thing({"type": fixed("function"), "name": IDENTIFIER})],
        },
        "ResponseRequest": _request(limits),
    }


def _request(limits: Limits) -> Schema:
    sampled = {name: schema for name, schema in options(limits).items() if name not in REFUSED}
    own = {
        "model": TEXT,
        "instructions": TEXT | {"description": "The system's turn, before the input."},
        "max_output_tokens": integer(1, limits.most_tokens) | {"description": "Tokens of the answer; unset: the model's default."},
        "include": items(fixed(LOGPROBS)),
        "top_logprobs": integer(0, limits.max_top_logprobs),
        "text": thing({}, {"format": maybe(ref("ResponseTextFormat")), "verbosity": NULL}),
        "tools": items(ref("ResponseTool"), most=limits.max_tools),
        "tool_choice": ref("ResponseToolChoice"),
        "parallel_tool_calls": BOOLEAN,
        "stream": BOOLEAN,
        "stream_options": thing({}, settable({"include_obfuscation": BOOLEAN})),
        "store": fixed(False) | {"description": "Nothing is stored, also where this is left out."},
        "background": fixed(False),
        "truncation": fixed("disabled"),
        "service_tier": {"enum": ["auto", "default"]},
        "metadata": _METADATA,
        "prompt_cache_key": NAME,
        "safety_identifier": NAME,
    }
    scored = implies(given(top_logprobs={"type": "integer"}), given(include={"type": "array", "minItems": 1}))
    asked: Schema = {"anyOf": [text(1), items(ref("ResponseItem"), 1, limits.max_messages)]}
    optional = {**settable(sampled | own), **refused(REFUSED), **dict.fromkeys(IGNORED, ANYTHING)}
    return thing({"input": asked}, optional, allOf=[STREAMED, scored, TOOLED, PARALLEL])


def _items(limits: Limits) -> list[Schema]:
    read = thing({"type": fixed("input_text"), "text": TEXT})
    written = thing({"type": fixed("output_text"), "text": TEXT}, {"annotations": {"enum": list(EMPTY)}, "logprobs": ANYTHING})
    unread = {**dict.fromkeys(UNREAD, ANYTHING), **refused(OF_OTHERS)}
    unread_message = {"type": maybe(fixed("message")), **unread}

    def said(part: Schema) -> Schema:
        return {"anyOf": [TEXT, items(part, 1, limits.max_messages)]}

    return [
        thing({"role": {"enum": ["system", "developer", "user"]}, "content": said(read)}, unread_message),
        thing({"role": fixed("assistant"), "content": said({"anyOf": [read, written]})}, unread_message),
        thing({"type": fixed("function_call"), "call_id": NAME, "name": TEXT, "arguments": TEXT}, unread),
        thing({"type": fixed("function_call_output"), "call_id": NAME, "output": said(read)}, unread),
    ]


def _told() -> dict[str, Schema]:
    token = {"token": TEXT, "bytes": items({"type": "integer", "minimum": 0, "maximum": 255}), "logprob": NUMBER}
    status: Schema = {"enum": ["in_progress", "completed", "incomplete"]}
    counts = {
        "input_tokens": COUNT,
        "input_tokens_details": thing({"cached_tokens": COUNT, "cache_write_tokens": COUNT}),
        "output_tokens": COUNT,
        "output_tokens_details": thing({"reasoning_tokens": COUNT}),
        "total_tokens": COUNT,
    }
    return {
        "ResponseLogprobs": items(thing({**token, "top_logprobs": items(thing(token))})),
        "ResponseText": thing(
            {"type": fixed("output_text"), "annotations": items(ANYTHING, most=0), "logprobs": ref("ResponseLogprobs"), "text": TEXT}
        ),
        "ResponseMessage": thing(
            {
                "id": TEXT,
                "type": fixed("message"),
                "status": status,
                "role": fixed("assistant"),
                "content": items(ref("ResponseText"), 0, 1),
            }
        ),
        "ResponseCall": thing(
            {"id": TEXT, "type": fixed("function_call"), "status": status, "arguments": TEXT, "call_id": TEXT, "name": TEXT}
        ),
        "ResponseOutput": {"anyOf": [ref("ResponseMessage"), ref("ResponseCall")]},
        "Response": thing(
            {
                "id": TEXT,
                "object": fixed("response"),
                "created_at": COUNT,
                "status": {"enum": ["in_progress", "completed", "incomplete", "failed"]},
                "completed_at": maybe(COUNT),
                "error": maybe(thing({"code": TEXT, "message": TEXT})),
                "incomplete_details": maybe(thing({"reason": fixed("max_output_tokens")})),
                "model": TEXT,
                "output": items(ref("ResponseOutput")),
                "usage": maybe(thing(counts)),
                "instructions": maybe(TEXT),
                "max_output_tokens": maybe(COUNT),
                "metadata": _METADATA,
                "parallel_tool_calls": BOOLEAN,
                "prompt_cache_key": maybe(TEXT),
                "safety_identifier": maybe(TEXT),
                "temperature": NUMBER,
                "text": thing({"format": {"type": "object", "required": ["type"]}}),
                "tool_choice": ref("ResponseToolChoice"),
                "tools": items(ref("ResponseTool")),
                "top_logprobs": COUNT,
                "top_p": NUMBER,
                "user": maybe(TEXT),
                "background": fixed(False),
                "max_tool_calls": NULL,
                "previous_response_id": NULL,
                "reasoning": thing({"effort": NULL, "summary": NULL}),
                "service_tier": fixed("default"),
                "store": fixed(False),
                "truncation": fixed("disabled"),
            },
            description="Whole, or as it stands at an event of its stream.",
        ),
    }


def _events() -> list[Schema]:
    item = {"output_index": COUNT, "item": ref("ResponseOutput")}
    called = {"item_id": TEXT, "output_index": COUNT}
    place = {**called, "content_index": fixed(0)}
    scores = {"logprobs": ref("ResponseLogprobs")}
    problem = {"code": TEXT, "message": TEXT, "param": maybe(TEXT), "error": {"type": "object"}}
    kinds: dict[str, dict[str, Schema]] = {
        **{f"response.{state}": {"response": ref("Response")} for state in ("created", "in_progress", "completed", "incomplete", "failed")},
        **{f"response.output_item.{end}": item for end in ("added", "done")},
        **{f"response.content_part.{end}": {**place, "part": ref("ResponseText")} for end in ("added", "done")},
        "response.output_text.delta": {**place, "delta": TEXT, **scores},
        "response.output_text.done": {**place, "text": TEXT, **scores},
        "response.function_call_arguments.delta": {**called, "delta": TEXT},
        "response.function_call_arguments.done": {**called, "arguments": TEXT},
        "error": problem,
    }
    return [thing({"type": fixed(kind), "sequence_number": COUNT, **fields}) for kind, fields in kinds.items()]
