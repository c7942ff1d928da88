"""Tool calls as models write them: read out of an answer's text, and asked for by a guide.

Models of the families served here write a call as JSON: bare, as a list, or after a mark of their own. `ToolFilter` holds text back while
it may still become a call, so that a stream never shows half of one; however the text is cut into pieces, the result is the same.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pilothouse import ids
from pilothouse.errors import InvalidRequest
from pilothouse.messages import Guide, Tool, ToolCall, ToolChoice

_MARKS = ("<tool_call>", "<|tool_call|>", "functools[", "<|python_tag|>", "[TOOL_CALLS]")
"""What stands before a call: Hermes and Qwen, Phi-4-mini and its older form, Llama 3, Mistral."""
_FENCES = ("```json", "```")
_KEYS = ("name", "parameters", "arguments", "function", "type", "id")
"""What the first key of a bare call is, one of them; a JSON answer that begins otherwise is not held back."""
_MARK = re.compile("|".join(map(re.escape, _MARKS)))
_CLOSE = re.compile(r"\s*(?:</tool_call>|<\|/tool_call\|>)?\s*;?\s*")
_CONSTANT = frozenset({"const", "default", "enum", "example", "examples"})
_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


def new_id() -> str:
    """A call's id, as OpenAI's look."""
    return f"call_{ids.new()[:24]}"


def parse(text: str, tools: Sequence[Tool], *, make_id: Callable[[], str] = new_id) -> tuple[str, tuple[ToolCall, ...]]:
    """The text that is left, and the calls in it. A call of a tool that was not offered, or a broken one, stays text, with all after it."""
    held = ToolFilter(tools, make_id=make_id)
    shown = held.feed(text)
    rest, calls = held.finish()
    return shown + rest, calls


class ToolFilter:
    """One choice's text, fed piece by piece: what can't be a call any more is let through."""

    def __init__(self, tools: Sequence[Tool], *, make_id: Callable[[], str] = new_id) -> None:
        self._names = frozenset(tool.name for tool in tools)
        self._make_id = make_id
        self._held = ""
        self._shown = False  # text was let through: a bare call, which opens an answer, is no longer possible
        self._inside = False  # a mark was found: all that follows waits for the end

    def feed(self, text: str) -> str:
        """The text that may be shown now."""
        self._held += text
        if self._inside or not self._held or (not self._shown and _may_be_bare(self._held)):
            return ""
        mark = _MARK.search(self._held)
        if mark:
            self._inside = True
        place = _without_space(self._held, mark.start()) if mark else _open_end(self._held)
        shown, self._held = self._held[:place], self._held[place:]
        self._shown = self._shown or bool(shown)
        return shown

    def finish(self) -> tuple[str, tuple[ToolCall, ...]]:
        """What is left as text, and the calls."""
        found = list(self._calls(self._held)) if self._held else []
        rest = self._held
        if found:
            rest = self._held[found[-1][2] :]
        self._held = ""
        return rest, tuple(ToolCall(self._make_id(), name, arguments) for name, arguments, _ in found)

    def _calls(self, text: str) -> Iterator[tuple[str, str, int]]:
        """Name, arguments and end of each call from the start of `text`, up to the first thing that is none."""
        position = len(text) - len(text.lstrip())
        bare = not self._inside and not self._shown
        fence = next((fence for fence in _FENCES if bare and text.startswith(fence, position)), "")
        position += len(fence)
        again = False  # Llama 3 writes one mark, and ; between calls
        while position < len(text):
            mark = _MARK.match(text, position)
            if mark is None and not bare and not again:
                return
            start = mark.end() - (mark[0] == "functools[") if mark else position
            start += len(text[start:]) - len(text[start:].lstrip())
            try:
                value, end = json.JSONDecoder().raw_decode(text, start)
            except (ValueError, RecursionError):
                return
            calls = [_named(entry) for entry in (value if isinstance(value, list) else [value])]
            if not calls or any(call is None or call[0] not in self._names for call in calls):
                return
            close = _CLOSE.match(text, end)
            position = close.end() if close else end
            again = ";" in text[end:position]
            if bare and not again:
                if text[position:].strip() != ("```" if fence else ""):
                    return
                position = len(text)
            elif not _MARK.match(text, position) and text[end:position].isspace():
                position = end  # white space before more text is that text's own
            yield from ((call[0], call[1], position) for call in calls if call)


def guide_for(tools: Sequence[Tool], choice: ToolChoice) -> Guide | None:
    """The shape an answer must have for `required` or one named function: the JSON of a call. None for `auto` and `none`.

    Raises `InvalidRequest` where no tool fits the choice.
    """
    if choice.mode in ("auto", "none"):
        return None
    offered = [tool for tool in tools if choice.mode == "required" or tool.name == choice.name]
    if not offered:
        wanted = (
            "tool_choice required needs tools" if choice.mode == "required" else f"tool_choice names {choice.name!r:.80}, none of the tools"
        )
        raise InvalidRequest(wanted, field="tool_choice")
    places = ["#/properties/arguments"] if len(offered) == 1 else [f"#/anyOf/{at}/properties/arguments" for at in range(len(offered))]
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.name}, "arguments": _moved(dict(tool.parameters), place) or {"type": "object"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool, place in zip(offered, places, strict=True)
    ]
    return Guide("json_schema", json.dumps(calls[0] if len(calls) == 1 else {"anyOf": calls}))


def _moved(schema: Any, place: str) -> Any:
    """`schema` with its references as they are once it stands at `place`."""
    if isinstance(schema, list):
        return [_moved(entry, place) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):
            made[key] = place + value[1:]
        elif key in _CONSTANT:
            made[key] = value
        elif key in _MAPS and isinstance(value, dict):
            made[key] = {name: _moved(entry, place) for name, entry in value.items()}
        else:
            made[key] = _moved(value, place)
    return made


def _may_be_bare(text: str) -> bool:
    """Whether `text` begins a bare call, or could: a fence, a list, an object whose first key is a call's."""
    rest = text.lstrip()
    if any(fence.startswith(rest) for fence in _FENCES):
        return True
    rest = rest.removeprefix(next((fence for fence in _FENCES if rest.startswith(fence)), "")).lstrip()
    for opening in ("[", "{", '"'):
        if rest.startswith(opening):
            rest = rest[1:].lstrip() if opening != '"' else rest[1:]
        elif opening != "[":
            return not rest
    return any(key.startswith(rest) or rest.startswith(f'{key}"') for key in _KEYS)


def _open_end(text: str) -> int:
    """Where the part of `text` begins that may be the start of a mark, with the white space before it."""
    for start in range(max(len(text) - max(map(len, _MARKS)) + 1, 0), len(text)):
        if any(mark.startswith(text[start:]) for mark in _MARKS):
            return _without_space(text, start)
    return _without_space(text, len(text))


def _without_space(text: str, end: int) -> int:
    return len(text[:end].rstrip())


def _named(entry: Any) -> tuple[str, str] | None:
    """The name and the arguments, as JSON text, of one call; None for anything else."""
    if not isinstance(entry, dict):
        return None
    inner = entry.get("function")
    entry = inner if isinstance(inner, dict) else entry
    name, arguments = entry.get("name"), entry.get("arguments", entry.get("parameters", {}))
    if not isinstance(name, str) or not isinstance(arguments, dict | str):
        return None
    return name, arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
