"""Content never becomes a control token.

Whatever looks like an added token in a client's text gets its first character replaced by a mark, a private-use character that occurs
nowhere in the request. The template then sees ordinary text; added tokens found in what it rendered are the template's own; and the marks
are undone before the text between them is encoded by a tokenizer that knows no added tokens at all.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.messages import Message, Tool

_PRIVATE = range(0xE000, 0xF8FF)


class Marks:
    """The marks of one request: which private-use character stands for which first character."""

    def __init__(self, tokens: Iterable[str], texts: Iterable[str]) -> None:
        """`tokens` are all added tokens, `texts` everything the client sent."""
        self._tokens = _overlapping(tokens)
        used = {character for text in texts for character in text if 0xE000 <= ord(character) <= 0xF8FF}
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        self._marks = {first: next(free) for first in sorted({token[0] for token in tokens if token.strip()})}
        self._undo = str.maketrans({mark: first for first, mark in self._marks.items()})

    def put(self, text: str) -> str:
        """`text` with the first character of every would-be token replaced, overlapping ones too."""
        places = {match.start() for match in self._tokens.finditer(text)} if self._tokens else set()
        if not places:
            return text
        return "".join(self._marks[c] if i in places else c for i, c in enumerate(text))

    def undo(self, text: str) -> str:
        """The text as the client sent it."""
        return text.translate(self._undo)

    def inside(self, value: Any) -> Any:
        """`put` for every string within JSON."""
        if isinstance(value, str):
            return self.put(value)
        if isinstance(value, Mapping):
            return {self.put(str(key)): self.inside(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.inside(inner) for inner in value]
        return value

    def message(self, message: Message) -> Message:
        calls = tuple(replace(c, id=self.put(c.id), name=self.put(c.name), arguments=self.put(c.arguments)) for c in message.tool_calls)
        name = None if message.name is None else self.put(message.name)
        call_id = None if message.tool_call_id is None else self.put(message.tool_call_id)
        return replace(message, content=self.put(message.content), name=name, tool_call_id=call_id, tool_calls=calls)

    def tool(self, tool: Tool) -> Tool:
        return Tool(self.put(tool.name), self.put(tool.description), self.inside(tool.parameters))


def texts_of(messages: Iterable[Message], tools: Iterable[Tool]) -> list[str]:
    """Every string of a client in a request."""
    found: list[str] = []
    for m in messages:
        found += [m.content, m.name or "", m.tool_call_id or ""]
        found += [text for call in m.tool_calls for text in (call.id, call.name, call.arguments)]
    for tool in tools:
        found += [tool.name, tool.description, *_strings(tool.parameters)]
    return found


def encode(tokenizer: Tokenizer, text: str, marks: Marks) -> list[int]:
    """Rendered text to ids: added tokens by their ids, all between them as plain text."""
    ids: list[int] = []
    position, strip = 0, False
    for match in _longest(tokenizer).finditer(text):
        number, token = tokenizer.added[match[0]]
        if token.single_word and (_word(text[match.start() - 1 : match.start()]) or _word(text[match.end() : match.end() + 1])):
            continue
        between = text[position : match.start()]
        between = between.lstrip() if strip else between
        between = between.rstrip() if token.lstrip else between
        if between:
            ids += tokenizer.encode_plain(marks.undo(between), first=position == 0)
        ids.append(number)
        position, strip = match.end(), token.rstrip
    rest = text[position:].lstrip() if strip else text[position:]
    if rest:
        ids += tokenizer.encode_plain(marks.undo(rest), first=position == 0)
    return ids


def _longest(tokenizer: Tokenizer) -> "re.Pattern[str]":
    """Leftmost, then longest, as the tokenizers library matches."""
    return re.compile("|".join(re.escape(token) for token in sorted(tokenizer.added, key=len, reverse=True)) or r"(?!)")


def _overlapping(tokens: Iterable[str]) -> "re.Pattern[str] | None":
    """Finds every place where a token begins, also inside another one."""
    words = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)  # runs of spaces control nothing
    return re.compile(f"(?={'|'.join(re.escape(word) for word in words)})") if words else None


def _strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, inner in value.items() for text in (str(key), *_strings(inner))]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _strings(inner)]
    return []


def _word(character: str) -> bool:
    return bool(character) and (character.isalnum() or character == "_")
