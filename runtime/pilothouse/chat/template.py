"""The model's own chat template: messages to what the model reads, up to where its answer begins."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from jinja2 import Template, TemplateError

from pilothouse.chat.marking import Guard, Marks, parsed, texts_of
from pilothouse.chat.sandbox import Environment, Refused, TooMuch, render, to_json, token_names
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.errors import InvalidRequest, ModelError
from pilothouse.messages import Message, Tool

GROWTH = 16  # a rendered chat may be this much longer than what was sent, and
SLACK = 1 << 20  # this many characters more: templates that repeat without end are refused
SHOWN = 300  # characters of a template's own words

_PROBE = Tool("pilothouse_probe", "probe", {"type": "object", "properties": {}})


class ChatTemplate:
    """Messages to token ids. Compiled once; safe to use from several threads."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, with_tools: str | None = None) -> None:
        """`source` is Jinja, `with_tools` another one for requests with tools. Raises `ModelError` where one can't be compiled."""
        self._templates = (_compiled(source), _compiled(source if with_tools is None else with_tools))
        self._guard = Guard(tokenizer, avoid=source + (with_tools or ""))
        self._names = token_names(tokenizer.config)
        self.control_tokens = frozenset(tokenizer.control)
        """What no client's text can become."""
        self._tools_in_system = False
        self.renders_tools = self._shows_tools()
        """Whether tools reach the model: found by rendering one."""
        if not self.renders_tools:  # Phi-4-mini's way: a text that the system message holds
            self._tools_in_system = True
            self.renders_tools = self._shows_tools()

    @classmethod
    def from_folder(cls, folder: Path, tokenizer: Tokenizer) -> Self | None:
        """The template in chat_template.jinja, tokenizer_config.json or chat_template.json; None where the model has none: then only
        raw prompts can be answered. Raises `ModelError` for one that can't be read or compiled."""
        named = _named(tokenizer.config.get("chat_template")) or _named(_held(folder / "chat_template.json"))
        try:
            for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
                named[file.stem] = file.read_text(encoding="utf-8")
            if (folder / "chat_template.jinja").is_file():
                named["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        except ValueError:
            raise ModelError(f"a chat template in {folder} is not UTF-8; export or fetch the model again") from None
        return cls(named["default"], tokenizer, with_tools=named.get("tool_use")) if "default" in named else None

    def text(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """What the model reads, up to where its answer begins. Raises `InvalidRequest`, with the template's own words where it refuses."""
        text, marks = self._render(messages, tools)
        return marks.undo(text)

    def ids(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """The same as token ids; control tokens only where the template wrote them."""
        text, marks = self._render(messages, tools)
        return self._guard.ids(text, marks)

    def _shows_tools(self) -> bool:
        try:
            return _PROBE.name in self.text((Message("user", "probe"),), (_PROBE,))
        except InvalidRequest:
            return False

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[str, Marks]:
        sent = list(texts_of(messages, tools))
        marks = self._guard.marks(sent)
        turns = [_turn(message, marks) for message in messages]
        offered = [_function(marks.tool(tool)) for tool in tools]
        if offered and self._tools_in_system:
            if turns[:1] == [] or turns[0]["role"] != "system":
                turns.insert(0, {"role": "system", "content": ""})
            turns[0]["tools"] = to_json([tool["function"] for tool in offered])
        try:
            text = render(
                self._templates[bool(tools)],
                GROWTH * sum(map(len, sent)) + SLACK,
                **self._names,
                messages=turns,
                tools=None if self._tools_in_system else offered or None,
                documents=None,
                add_generation_prompt=True,
            )
        except Refused as refusal:
            words = marks.undo(str(refusal.message))[:SHOWN]
            raise InvalidRequest(f"messages: the model's chat template refuses them: {words}", field="messages") from None
        except TooMuch:
            raise InvalidRequest(
                "messages: the model's chat template makes too much of them; send fewer or shorter ones", field="messages"
            ) from None
        except Exception:  # a template is the model's program: whatever it does wrong, these messages can't be rendered
            raise InvalidRequest(
                "messages: the model's chat template can't render them; check roles and their order", field="messages"
            ) from None
        return text, marks


def _compiled(source: str) -> Template:
    try:
        template = Environment().from_string(source)
        template.globals = dict(template.globals)  # a chain of maps, as it was, is copied name by name in every rendering
        return template
    except TemplateError as error:
        raise ModelError(f"the model's chat template can't be compiled: {error}") from None


def _held(path: Path) -> Any:
    """What chat_template.json holds, in the models that have one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except ValueError:
        raise ModelError(f"{path} is not JSON; export or fetch the model again") from None
    return value.get("chat_template") if isinstance(value, dict) else None


def _named(given: Any) -> dict[str, str]:
    """Templates by name, from one text or a list of named ones."""
    if isinstance(given, str):
        return {"default": given}
    entries = given if isinstance(given, list) else []
    return {
        entry["name"]: entry["template"]
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }


def _turn(message: Message, marks: Marks) -> dict[str, Any]:
    """A message as templates expect it, marked, with the keys that are set."""
    marked = marks.message(message)
    made: dict[str, Any] = {"role": marked.role, "content": marked.content}
    if marked.name is not None:
        made["name"] = marked.name
    if marked.tool_call_id is not None:
        made["tool_call_id"] = marked.tool_call_id
    if marked.tool_calls:
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": marks.inside(parsed(call.arguments))}}
            for call in marked.tool_calls
        ]
    return made


def _function(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}}
