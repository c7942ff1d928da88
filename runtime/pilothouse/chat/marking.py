"""Content never becomes a control token.

Wherever a client's text could be read as a control token, or as a part of one that what stands beside it completes, one character is
replaced by a mark: a private-use character that occurs nowhere in the request. The template then sees ordinary text; control tokens found
in what it rendered are the template's own; and the marks are undone before the text between them is encoded by a tokenizer in which
control tokens are out of reach.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.errors import InvalidRequest
from pilothouse.messages import Message, Tool

_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space as the tokenizers library has it, which a token may swallow; Python's own has four characters more."""
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Guard:
    """The control tokens of one model, ready to be found. Made once; changes never."""

    def __init__(self, tokenizer: Tokenizer, avoid: str = "") -> None:
        """`avoid` holds characters that no mark may be: the template's own."""
        self._tokenizer = tokenizer
        self._control = tokenizer.control
        self._avoid = set(avoid).union(*self._control)
        words = sorted({token.lower() for token in self._control})
        self._begins = re.compile(f"(?={_trie(words)})", re.IGNORECASE)  # any case: a template may lower or raise it
        self._tokens = re.compile(_trie(sorted(self._control)))
        self._heads = {word[:end] for word in words for end in range(1, len(word))}
        self._tails = {word[start:] for word in words for start in range(1, len(word))}
        self._all = "\0".join(words)
        self._longest = max(map(len, words), default=0)

    def marks(self, texts: Iterable[str]) -> "Marks":
        """The marks for a request; `texts` is everything the client sent."""
        return Marks(self, self._avoid.union(*texts))

    def places(self, text: str, *, whole: bool) -> set[int]:
        """The characters to mark: where a control token begins, also within another; where one could begin at the end of `text`, to be
        closed by what follows; and the first one, where `text` could close one. `whole`: also where all of it could lie inside one."""
        found = {match.start() for match in self._begins.finditer(text)}
        size = min(len(text), self._longest - 1)
        end, start = text[len(text) - size :].lower(), text[:size].lower()
        found |= {len(text) - back for back in range(1, size + 1) if end[-back:] in self._heads}
        if not self._tails.isdisjoint([start[:ahead] for ahead in range(1, size + 1)]) or (
            whole and 0 < len(text) <= size and start in self._all
        ):
            found.add(0)
        return found

    def ids(self, text: str, marks: "Marks") -> list[int]:
        """Rendered text to ids: control tokens by their ids, all between them as plain text."""
        ids: list[int] = []
        position, strip = 0, False
        for match in self._tokens.finditer(text):
            number, token = self._control[match[0]]
            if token.single_word and (_word(text[match.start() - 1 : match.start()]) or _word(text[match.end() : match.end() + 1])):
                continue
            between = text[position : match.start()]
            between = between.lstrip(_SPACE) if strip else between
            between = between.rstrip(_SPACE) if token.lstrip else between
            if between:
                ids += self._tokenizer.encode_plain(marks.undo(between), first=position == 0)
            ids.append(number)
            position, strip = match.end(), token.rstrip
        rest = text[position:].lstrip(_SPACE) if strip else text[position:]
        if rest:
            ids += self._tokenizer.encode_plain(marks.undo(rest), first=position == 0)
        return ids


class Marks:
    """The marks of one request: which private-use character stands for which."""

    def __init__(self, guard: Guard, used: set[str]) -> None:
        self._guard = guard
        self._free: Iterator[str] = (chr(code) for codes in _PRIVATE for code in codes if chr(code) not in used)
        self._marks: dict[str, str] = {}
        self._undo: dict[int, str] = {}

    def _mark(self, character: str) -> str:
        if character not in self._marks:
            mark = next(self._free, None)
            if mark is None:
                raise InvalidRequest("the request holds every private-use character there is; leave some out")
            self._marks[character], self._undo[ord(mark)] = mark, character
        return self._marks[character]

    def put(self, text: str, *, whole: bool = True) -> str:
        """`text`, unable to be or to complete a control token."""
        places = self._guard.places(text, whole=whole)
        if not places:
            return text
        characters = list(text)
        for place in places:
            characters[place] = self._mark(characters[place])
        return "".join(characters)

    def undo(self, text: str) -> str:
        """The text as the client sent it."""
        return text.translate(self._undo) if self._undo else text

    def inside(self, value: Any) -> Any:
        """`put` for every string within JSON. Words that lie inside a token stay, for templates that ask for a type by name."""
        if isinstance(value, str):
            return self.put(value, whole=False)
        if isinstance(value, Mapping):
            return {self.put(str(key), whole=False): self.inside(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.inside(inner) for inner in value]
        return value

    def message(self, message: Message) -> Message:
        """The message with its texts marked; arguments of calls, which are JSON text, are left to `inside`."""
        if message.name is None and message.tool_call_id is None and not message.tool_calls:
            content = self.put(message.content)
            return message if content is message.content else replace(message, content=content)
        calls = tuple(replace(call, id=self.put(call.id), name=self.put(call.name)) for call in message.tool_calls)
        name = None if message.name is None else self.put(message.name)
        call_id = None if message.tool_call_id is None else self.put(message.tool_call_id)
        return replace(message, content=self.put(message.content), name=name, tool_call_id=call_id, tool_calls=calls)

    def tool(self, tool: Tool) -> Tool:
        return Tool(self.put(tool.name), self.put(tool.description), self.inside(tool.parameters))


def texts_of(messages: Iterable[Message], tools: Iterable[Tool]) -> Iterator[str]:
    """Every string of a client in a request, those within JSON included."""
    for message in messages:
        yield from (message.content, message.name or "", message.tool_call_id or "")
        for call in message.tool_calls:
            yield from (call.id, call.name, *_strings(parsed(call.arguments)))
    for tool in tools:
        yield from (tool.name, tool.description)
        yield from _strings(tool.parameters)


def parsed(arguments: str) -> Any:
    """A call's arguments as templates expect them, a mapping, as transformers does; text that is no JSON object stays text."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


def _trie(words: list[str]) -> str:
    """A pattern for any of `words`, the longest first, that takes time by the length of a word and not by their number."""
    if not words:
        return r"(?!)"
    root: dict[str, Any] = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[""] = {}
    return _pattern(root)


def _pattern(node: dict[str, Any]) -> str:
    branches = [re.escape(character) + _pattern(child) for character, child in node.items() if character]
    if not branches:
        return ""
    joined = branches[0] if len(branches) == 1 and "" not in node else f"(?:{'|'.join(branches)})"
    return joined + "?" if "" in node else joined


def _word(character: str) -> bool:
    return bool(character) and (character.isalnum() or character == "_")
