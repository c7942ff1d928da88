"""The Jinja that chat templates are written for: transformers' own settings, filters and names, in a sandbox with bounds.

A template is a program that came with the model. It reaches nothing but its arguments, and what it does in loops is counted.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

RANGES = 100_000  # items of all ranges of one rendering
REPEATS = 1 << 20  # characters, of text times a number
SECONDS = 10.0  # of one rendering


class Refused(TemplateError):
    """What the template itself refuses, in its own words."""


class TooMuch(Exception):
    """A rendering that outgrew its bound."""


class _Generation(Extension):
    """`{% generation %}`, which marks the assistant's text for training; here it only renders."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own class attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(Namespace):
    """Jinja's namespace without underscored names, which lead to Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=1)` is allowed
        made, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _plain_name(name)
        Namespace.__init__(made, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _plain_name(name)
        super().__setitem__(name, value)


def _plain_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError("an underscored name on a namespace")


class Environment(ImmutableSandboxedEnvironment):
    """One for each template; rendering with it is safe from several threads."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self.filters["tojson"] = to_json
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        self.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
        self.globals["namespace"] = _Namespace

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        for side, times in ((left, right), (right, left)):
            if isinstance(side, str | list | tuple) and isinstance(times, int) and len(side) * times > REPEATS:
                raise TooMuch
        if operator == "**" and not (abs(left) <= REPEATS and 0 <= right <= 8):
            raise TooMuch
        return super().call_binop(context, operator, left, right)


def render(template: Template, most: int, **values: Any) -> str:
    """The text that `template` makes of `values`. Raises `TooMuch` beyond `most` characters or the bounds above, `Refused` where it says so."""
    pieces: list[str] = []
    size, until, left = 0, time.monotonic() + SECONDS, RANGES

    def counted(*bounds: int) -> Iterator[int] | range:
        nonlocal left
        made = range(*bounds)
        left -= len(made)
        if left < 0 or time.monotonic() > until:
            raise TooMuch
        return made

    for piece in template.generate(**values, range=counted):
        pieces.append(piece)
        size += len(piece)
        if size > most or time.monotonic() > until:
            raise TooMuch
    return "".join(pieces)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML; templates expect JSON as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> NoReturn:
    raise Refused(str(message))


def token_names(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token` and the like, as tokenizer_config.json spells them: texts, or mappings that hold one."""
    found = {}
    for name, token in config.items():
        content = token.get("content") if isinstance(token, Mapping) else token
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found
