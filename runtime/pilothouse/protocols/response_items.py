"""What a response is asked with, `instructions` and `input`, as the messages of a chat: strict, text only.

A model's calls are items of their own on this wire. They join the turn that they came with, so that a conversation renders as a chat's does.
"""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Message, ToolCall
from pilothouse.protocols.conversation import EMPTY, content_of, pieces
from pilothouse.protocols.fields import Fields, shown, valid_text, wrong_type
from pilothouse.protocols.limits import Limits, at_most, short

ROLES = ("system", "developer", "user", "assistant")
UNREAD = ("id", "status")
"""What an item of an answer says of itself: clients send items back as they came."""
OF_OTHERS = dict.fromkeys(("async", "async_", "caller", "namespace", "phase"), "no answer of this model has it")
"""What OpenAI's newer models say of their items, which its client writes out as null in everybody's."""


def conversation(value: Any, instructions: str | None, limits: Limits, path: str = "input") -> tuple[Message, ...]:
    """The turns of `input`, a string or a list of items, after the `instructions`, which are the system's; "" are none.

    Raises `InvalidRequest` naming the item and the field: unknown type, role or field, content that is not text, an output of no call.
    """
    turns = [Message("system", instructions)] if instructions else []
    if isinstance(value, str):
        if not value:
            raise InvalidRequest(f"{path} must not be empty", field=path)
        return (*turns, Message("user", valid_text(value, path)))
    if not isinstance(value, list):
        wrong_type(path, "a string or a list of items", value)
    if not value:
        raise InvalidRequest(f"{path} must not be empty", field=path)
    at_most(path, len(value), limits.max_messages, "items")
    at_most(path, sum(pieces(item, "content", "output") for item in value), limits.max_messages, "text parts")
    calls: set[str] = set()
    for index, item in enumerate(value):
        turn = _turn(Fields(item, f"{path}[{index}]"))
        calls.update(call.id for call in turn.tool_calls)
        if turn.tool_call_id is not None and turn.tool_call_id not in calls:
            field = f"{path}[{index}].call_id"
            raise InvalidRequest(f"{field} {shown(turn.tool_call_id)} answers no function call before it", field=field)
        if turn.tool_calls and turns and turns[-1].role == "assistant":
            turns[-1] = replace(turns[-1], tool_calls=turns[-1].tool_calls + turn.tool_calls)
        else:
            turns.append(turn)
    return tuple(turns)


def _turn(fields: Fields) -> Message:
    sort = fields.text("type") if "type" in fields else "message"
    match sort:
        case "message":
            turn = _message(fields)
        case "function_call":
            call = ToolCall(id=_call_id(fields), name=fields.need_text("name"), arguments=fields.need_text("arguments"))
            turn = Message("assistant", tool_calls=(call,))
        case "function_call_output":
            said = content_of(fields.need("output"), fields.path("output"), partial(_part, ("input_text",)))
            turn = Message("tool", said, tool_call_id=_call_id(fields))
        case "item_reference":
            raise Unsupported(
                f"{fields.path('type')} 'item_reference' is not supported: nothing is stored here, send the item itself",
                field=fields.path("type"),
            )
        case _:
            raise Unsupported(
                f"{fields.path('type')} {shown(sort)} is not supported: send message, function_call or function_call_output",
                field=fields.path("type"),
            )
    fields.take("type")
    fields.refuse(OF_OTHERS)
    fields.finish(ignored=UNREAD)
    return turn


def _message(fields: Fields) -> Message:
    role = fields.need_text("role")
    if role not in ROLES:
        raise InvalidRequest(f"{fields.path('role')} must be one of {', '.join(ROLES)}, not {shown(role)}", field=fields.path("role"))
    parts = ("input_text", "output_text") if role == "assistant" else ("input_text",)
    turn = cast(Literal["system", "user", "assistant"], "system" if role == "developer" else role)
    return Message(turn, content_of(fields.need("content"), fields.path("content"), partial(_part, parts)))


def _call_id(fields: Fields) -> str:
    value = fields.need_text("call_id")
    short(fields.path("call_id"), value)
    return value


def _part(parts: tuple[str, ...], fields: Fields) -> str:
    """The text of one part. Images and files are refused before anything in them is looked at: no URL is ever fetched."""
    sort = fields.need_text("type")
    if sort not in parts:
        raise Unsupported(
            f"{fields.path('type')} {shown(sort)} is not supported: this model reads text only, as {' or '.join(parts)}",
            field=fields.path("type"),
        )
    text = fields.need_text("text")
    if sort == "output_text":
        if fields.take("annotations") not in EMPTY:
            path = fields.path("annotations")
            raise Unsupported(f"{path} is not supported: send the text alone", field=path)
        fields.take("logprobs")  # of an answer that is sent back
    fields.finish()
    return text
