"""The model's own chat template: sandboxed, compiled once, rendered with the same settings and names that transformers gives it."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, Self

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pilothouse.chat.marking import Marks, encode, texts_of
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.errors import InvalidRequest, ModelError
from pilothouse.messages import Message, Tool

_MOST_RANGE = 10_000  # items of a template's own loops
_GROWTH = 16  # a rendered chat may be this much longer than what was sent, and
_SLACK = 1 << 20  # this many characters more: templates that repeat without end are refused


class _Raised(TemplateError):
    """What the template itself refuses, in its own words."""


class _Generation(Extension):
    """`{% generation %}`, which marks the assistant's text for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, its loops bounded."""

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.globals["range"] = _bounded_range


def _refuse(message: str) -> NoReturn:
    raise _Raised(message)


def _bounded_range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > _MOST_RANGE:
        raise SecurityError("a range of that length")
    return made


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=options.get("separators"),
        sort_keys=options.get("sort_keys", False),
    )


class ChatTemplate:
    """Messages to token ids. Safe to use from several threads."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        """`source` is Jinja. Raises `ModelError` where it can't be compiled."""
        self._tokenizer = tokenizer
        try:
            self._template = _Environment().from_string(source)
        except TemplateError as error:
            raise ModelError(f"the model's chat template can't be compiled: {error}") from None
        self._names = {
            name: content
            for name, token in tokenizer.config.items()
            if name.endswith("_token") and (content := _content(token)) is not None
        }
        probe = Tool("pilothouse_probe", "probe", {"type": "object", "properties": {}})
        try:
            self.renders_tools = "pilothouse_probe" in self.text((Message("user", "probe"),), (probe,))
        except InvalidRequest:
            self.renders_tools = False

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> Self | None:
        """The template in chat_template.jinja or tokenizer_config.json; None where the model has none."""
        file = folder / "chat_template.jinja"
        source = file.read_text(encoding="utf-8") if file.is_file() else tokenizer.config.get("chat_template")
        if isinstance(source, list):  # several, by name
            source = next((entry["template"] for entry in source if entry.get("name") == "default"), None)
        return cls(source, tokenizer) if isinstance(source, str) else None

    def text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """What the model reads, up to where its answer begins. Raises `InvalidRequest` with the template's own words where it refuses."""
        text, marks = self._render(messages, tools)
        return marks.undo(text)

    def ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The same as token ids; control tokens only where the template wrote them."""
        text, marks = self._render(messages, tools)
        return encode(self._tokenizer, text, marks)

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, Marks]:
        sent = texts_of(messages, tools)
        marks = Marks(self._tokenizer.added, sent)
        most = _GROWTH * sum(map(len, sent)) + _SLACK
        pieces, size = [], 0
        try:
            for piece in self._template.generate(
                messages=[_plain(marks.message(message)) for message in messages],
                tools=[_function(marks.tool(tool)) for tool in tools] or None,
                documents=None,
                add_generation_prompt=True,
                **self._names,
            ):
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise InvalidRequest(
                        "messages: the model's chat template makes too much of them; send fewer or shorter ones", field="messages"
                    )
        except _Raised as refusal:
            raise InvalidRequest(f"messages: the model's chat template refuses them: {refusal.message}", field="messages") from None
        except InvalidRequest:
            raise
        except Exception:  # a template is the model's program: whatever it does wrong, these messages can't be rendered
            raise InvalidRequest(
                "messages: the model's chat template can't render them; check roles and their order", field="messages"
            ) from None
        return "".join(pieces), marks


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _plain(message: Message) -> dict[str, Any]:
    """A message as templates expect it, with the keys that are set."""
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name is not None:
        made["name"] = message.name
    if message.tool_call_id is not None:
        made["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        made["tool_calls"] = [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": _arguments(c.arguments)}} for c in message.tool_calls
        ]
    return made


def _arguments(written: str) -> Any:
    """Templates expect a mapping, as transformers does; text that is no JSON stays text."""
    try:
        value = json.loads(written)
    except ValueError:
        return written
    return value if isinstance(value, dict) else written


def _function(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}}
