"""Messages of a chat, as OpenAI spells them and MLflow and V2 borrow them: strict, text only."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Message, ToolCall
from pilothouse.protocols.fields import Fields, shown, valid_text, wrong_type
from pilothouse.protocols.limits import Limits, at_most

ROLES: Mapping[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"
}  # fmt: skip
"""As they are sent, and as templates know them."""
ECHOED = ("annotations", "audio", "function_call", "refusal", "reasoning_content")
"""Fields that clients send back from an answer: empty they mean nothing, filled they are refused."""

EMPTY: tuple[Any, ...] = (None, "", [])


def messages(values: list[Any], limits: Limits, path: str = "messages") -> tuple[Message, ...]:
    """The conversation in `values`.

    Raises `InvalidRequest` naming the message and the field: unknown role or field, content that is not text, a tool's answer that
    answers no call.
    """
    if not values:
        raise InvalidRequest(f"{path} must not be empty", field=path)
    at_most(path, len(values), limits.max_messages, "messages")
    at_most(path, sum(pieces(value, "content", "tool_calls") for value in values), limits.max_messages, "text parts and tool calls")
    turns: list[Message] = []
    calls: set[str] = set()
    for index, value in enumerate(values):
        turn = _message(Fields(value, f"{path}[{index}]"))
        calls.update(call.id for call in turn.tool_calls)
        if turn.tool_call_id is not None and turn.tool_call_id not in calls:
            field = f"{path}[{index}].tool_call_id"
            raise InvalidRequest(f"{field} {shown(turn.tool_call_id)} answers no tool call before it", field=field)
        turns.append(turn)
    return tuple(turns)


def pieces(value: Any, *names: str) -> int:
    """How much is in the lists of a message beside itself; what is of a wrong type is judged later."""
    count = 0
    if isinstance(value, dict):
        for name in names:
            if isinstance(one := value.get(name), list):
                count += len(one)
    return count


def _message(fields: Fields) -> Message:
    role = fields.need_text("role")
    if role == "function":
        raise Unsupported(
            f"{fields.path('role')} 'function' is deprecated: send role 'tool' with a tool_call_id", field=fields.path("role")
        )
    if role not in ROLES:
        raise InvalidRequest(f"{fields.path('role')} must be one of {', '.join(ROLES)}, not {shown(role)}", field=fields.path("role"))
    calls = _tool_calls(fields.items("tool_calls"), fields.path("tool_calls")) if role == "assistant" else ()
    answered = fields.need_text("tool_call_id") if role == "tool" else None
    content = "" if calls and "content" not in fields else content_of(fields.need("content"), fields.path("content"), _part)
    name = fields.text("name")
    if role == "assistant":
        for echo in ECHOED:
            if fields.take(echo) not in EMPTY:
                raise Unsupported(f"{fields.path(echo)} is not supported: send the text as content", field=fields.path(echo))
    fields.take("content")
    fields.finish()
    return Message(role=ROLES[role], content=content, name=name, tool_calls=calls, tool_call_id=answered)


def content_of(value: Any, path: str, part: Callable[[Fields], str]) -> str:
    """The text of a turn, a string or a list of what `part` reads, each on a line of its own."""
    if isinstance(value, str):
        return valid_text(value, path)
    if not isinstance(value, list):
        wrong_type(path, "a string or a list of text parts", value)
    if not value:
        raise InvalidRequest(f"{path} must have at least one part", field=path)
    return "\n".join(part(Fields(one, f"{path}[{index}]")) for index, one in enumerate(value))


def _part(fields: Fields) -> str:
    """The text of one part. Images, audio and files are refused before anything in them is looked at: no URL is ever fetched."""
    sort = fields.need_text("type")
    if sort != "text":
        raise Unsupported(f"{fields.path('type')} {shown(sort)} is not supported: this model reads text only", field=fields.path("type"))
    text = fields.need_text("text")
    fields.finish()
    return text


def _tool_calls(values: list[Any], path: str) -> tuple[ToolCall, ...]:
    return tuple(_tool_call(Fields(value, f"{path}[{index}]")) for index, value in enumerate(values))


def _tool_call(fields: Fields) -> ToolCall:
    fields.choice("type", "function")
    function = fields.need_object("function")
    call = ToolCall(id=fields.need_text("id"), name=function.need_text("name"), arguments=function.need_text("arguments"))
    function.finish()
    fields.finish(ignored=("index",))  # left over by clients that join a stream themselves
    return call
