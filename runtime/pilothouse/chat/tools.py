"""Tool calls as models write them: read out of an answer's text, and asked for by a guide.

Models of the families served here write a call as JSON: bare, as a list, or between marks of their own. `ToolFilter` holds text back while
it may still become a call, so that a stream never shows half of one.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from pilothouse.errors import InvalidRequest
from pilothouse.messages import Guide, Tool, ToolCall, ToolChoice

_OPENINGS = ("<tool_call>", "<|tool_call|>", "<function_call>", "functools[", "<|python_tag|>", "[TOOL_CALLS]", "```json", "{", "[")
"""How a call may begin, once leading white space is gone: Qwen and Hermes, Phi-4-mini, others, Phi-4-mini's older form, Llama 3, Mistral, bare."""
_WRAPPED = re.compile(r"<(\|?)(tool_call|function_call)\|?>(.*?)</?\1(?:/)?\2\|?>", re.DOTALL)


def new_id() -> str:
    """A call's id, as OpenAI's look."""
    return f"call_{uuid4().hex[:24]}"


def parse(text: str, tools: Sequence[Tool], *, make_id: Callable[[], str] = new_id) -> tuple[str, tuple[ToolCall, ...]]:
    """The text that is left, and the calls in it. Calls of a tool that was not offered, and broken ones, stay text."""
    names = {tool.name for tool in tools}
    wrapped = list(_WRAPPED.finditer(text))
    if wrapped:
        found = [call for match in wrapped for call in _calls(match[3], names)]
        if found:
            return _WRAPPED.sub("", text).strip(), tuple(_call(name, arguments, make_id) for name, arguments in found)
        return text, ()
    stripped = text.strip()
    for opening in _OPENINGS[3:]:
        if stripped.startswith(opening):
            body = stripped if opening in "[{" else stripped[len(opening) - (opening[-1] == "[") :]
            if opening == "[TOOL_CALLS]":
                body = stripped[len(opening) :]
            if opening == "```json":
                body = body.removesuffix("```")
            found = _calls(body, names)
            return ("", tuple(_call(name, arguments, make_id) for name, arguments in found)) if found else (text, ())
    return text, ()


class ToolFilter:
    """One choice's text, fed piece by piece: what can't be a call any more is let through."""

    def __init__(self, tools: Sequence[Tool], *, make_id: Callable[[], str] = new_id) -> None:
        self._tools = tools
        self._make_id = make_id
        self._held = ""
        self._open = False  # a call has begun: everything is held until the end

    def feed(self, text: str) -> str:
        """The text that may be shown now."""
        self._held += text
        if self._open:
            return ""
        for place in self._places():
            rest = self._held[place:]
            if any(rest.startswith(opening) for opening in _OPENINGS):
                self._open = True
                shown, self._held = self._held[:place], rest
                return shown
            if any(opening.startswith(rest) for opening in _OPENINGS):
                shown, self._held = self._held[:place], rest
                return shown
        shown, self._held = self._held, ""
        return shown

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What is left as text, and the calls."""
        return parse(self._held, self._tools, make_id=self._make_id) if self._held else ("", ())

    def _places(self) -> list[int]:
        """Where a call may begin in the held text: at its beginning after white space, and at any mark of its own."""
        lead = len(self._held) - len(self._held.lstrip())
        marks = [match.start() for match in re.finditer(r"[<\[f]", self._held) if match.start() > lead and self._held[match.start()] == "<"]
        return [lead, *marks] if lead < len(self._held) else [0]


def guide_for(tools: Sequence[Tool], choice: ToolChoice) -> Guide | None:
    """The shape an answer must have for `required` or one named function: the JSON of a call. None for `auto` and `none`."""
    if choice.mode in ("auto", "none"):
        return None
    offered = [tool for tool in tools if choice.mode == "required" or tool.name == choice.name]
    if not offered:
        raise InvalidRequest(f"tool_choice names {choice.name!r}, which is not among tools", field="tool_choice")
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": dict(tool.parameters) or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in offered
    ]
    return Guide("json_schema", json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))


def _calls(body: str, names: set[str]) -> list[tuple[str, str]]:
    """Names and arguments of the calls in `body`; none if any of it is no call of an offered tool."""
    try:
        value = json.loads(body)
    except ValueError:
        return []
    found = [_named(entry) for entry in (value if isinstance(value, list) else [value])]
    return [call for call in found if call is not None] if found and all(call and call[0] in names for call in found) else []


def _named(entry: Any) -> tuple[str, str] | None:
    if not isinstance(entry, dict):
        return None
    entry = entry.get("function") if isinstance(entry.get("function"), dict) else entry
    name, arguments = entry.get("name"), entry.get("arguments", entry.get("parameters", {}))
    if not isinstance(name, str):
        return None
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _call(name: str, arguments: str, make_id: Callable[[], str]) -> ToolCall:
    return ToolCall(id=make_id(), name=name, arguments=arguments)
