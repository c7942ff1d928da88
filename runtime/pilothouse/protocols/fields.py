"""One JSON object being read: every field is taken once, by its type, and what nobody took is refused by name.

Pydantic would coerce (`"1"` to 1), answer in its own words, and cost more; here a wrong type names the field as the wire spells it.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import orjson

from pilothouse.bulk import demand_parsable
from pilothouse.errors import InvalidRequest, Unsupported

IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,64}")
SHOWN = 64  # characters of a client's own value that an error repeats


def document(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises `InvalidRequest` for anything else; at most 1024 levels deep, numbers finite."""
    demand_parsable(raw)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not {_broken(raw, error)}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest(f"the body must be a JSON object, not {kind(body)}", code="invalid_type")
    return body


def _broken(raw: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as unicode:
        return f"valid UTF-8 (at byte {unicode.start})"
    return f"valid JSON (at line {error.lineno}, column {error.colno})"


def kind(value: Any) -> str:
    """What JSON calls `value`, with its article, for an error's sentence."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str() | bytes():
            return "a string"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "an object"
    return "another type"


def shown(value: Any) -> str:
    """A client's value as an error may repeat it: short, one line, printable."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}..."
    if isinstance(value, bool) or value is None:
        return str(orjson.dumps(value), "ascii")
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "an integer beyond 64 bits"
    if isinstance(value, int | float):
        return repr(value)
    return kind(value)


def spelled(name: Any) -> str:
    """A field's name as an error may repeat it: as it is where that is short and printable."""
    return name if isinstance(name, str) and len(name) <= SHOWN and name.isprintable() else shown(name)


def valid_text(value: str, path: str) -> str:
    """`value`, if it can be written as UTF-8: half of a surrogate pair can't, and would break tokenizers and answers later."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{path} is not valid Unicode: it has half of a surrogate pair", field=path) from None
    return value


class Fields:
    """The fields of one object at `path` ("" for the body itself). A field that is absent or null reads as None."""

    def __init__(self, body: Any, path: str = "") -> None:
        if type(body) is not dict and not isinstance(body, Mapping):
            raise InvalidRequest(f"{path or 'the body'} must be an object, not {kind(body)}", field=path or None, code="invalid_type")
        self._left: dict[Any, Any] = dict(body)
        self.prefix = path

    def path(self, name: str) -> str:
        """The field's full name, as `messages[0].content`."""
        return f"{self.prefix}.{name}" if self.prefix else name

    def __contains__(self, name: str) -> bool:
        """Given, and not null."""
        return self._left.get(name) is not None

    def take(self, name: str) -> Any:
        """The field whatever its type; it counts as read."""
        return self._left.pop(name, None)

    def left(self) -> dict[Any, Any]:
        """What nobody took yet."""
        return dict(self._left)

    def lacks(self, *names: str) -> bool:
        """Whether none of `names` is given, not even as null."""
        return self._left.keys().isdisjoint(names)

    def read(self, readers: Mapping[str, Callable[[Any, str], Any]]) -> dict[str, Any]:
        """What of `readers` is given and not null, each read from its value and its full name."""
        left, found = self._left, {}
        for name, reader in readers.items():
            if name in left and (value := left.pop(name)) is not None:
                found[name] = reader(value, self.path(name))
        return found

    def require(self, *names: str) -> None:
        """Refuse the first of `names` that is absent or null."""
        for name in names:
            if name not in self:
                raise InvalidRequest(f"{self.path(name)} is required", field=self.path(name), code="missing_required_parameter")

    def need(self, name: str) -> Any:
        """The field whatever its type; absent or null is refused."""
        value = self._left.pop(name, None)
        if value is None:
            self.require(name)
        return value

    def text(self, name: str) -> str | None:
        value = self._left.pop(name, None)
        return None if value is None else self.a_text(value, self.path(name))

    def need_text(self, name: str) -> str:
        return self.a_text(self.need(name), self.path(name))

    def need_identifier(self, name: str) -> str:
        """A name as OpenAI allows it for tools and schemas."""
        value = self.need_text(name)
        if not IDENTIFIER.fullmatch(value):
            raise InvalidRequest(f"{self.path(name)} must be 1 to 64 letters, digits, _ and -, not {shown(value)}", field=self.path(name))
        return value

    def boolean(self, name: str) -> bool | None:
        value = self._left.pop(name, None)
        return None if value is None else self.a_boolean(value, self.path(name))

    def integer(self, name: str) -> int | None:
        value = self._left.pop(name, None)
        return None if value is None else self.an_integer(value, self.path(name))

    def number(self, name: str) -> float | None:
        value = self._left.pop(name, None)
        return None if value is None else self.a_number(value, self.path(name))

    def items(self, name: str) -> list[Any]:
        """The list, empty when absent."""
        value = self._left.pop(name, None)
        return [] if value is None else self.a_list(value, self.path(name))

    def need_items(self, name: str) -> list[Any]:
        return self.a_list(self.need(name), self.path(name))

    def object(self, name: str) -> "Fields | None":
        value = self._left.pop(name, None)
        return None if value is None else Fields(value, self.path(name))

    def need_object(self, name: str) -> "Fields":
        return Fields(self.need(name), self.path(name))

    def choice(self, name: str, *values: str) -> str | None:
        """A string that is one of `values`."""
        value = self.text(name)
        if value is not None and value not in values:
            raise InvalidRequest(f"{self.path(name)} must be {' or '.join(values)}, not {shown(value)}", field=self.path(name))
        return value

    def refuse(self, reasons: Mapping[str, str]) -> None:
        """Refuse the fields that are known but can't be honoured, each with its reason; null asks for nothing."""
        if self._left.keys().isdisjoint(reasons):
            return
        for name, reason in reasons.items():
            if name in self:
                raise Unsupported(f"{self.path(name)} is not supported: {reason}", field=self.path(name))
            self._left.pop(name, None)

    def finish(self, ignored: Iterable[str] = (), hints: Mapping[str, str] | None = None) -> None:
        """Refuse what is left. `ignored` may stay unread; `hints` say what to send in place of a name of another system."""
        for name in ignored:
            self._left.pop(name, None)
        for name in self._left:
            hint = (hints or {}).get(name)
            path = self.path(spelled(name))
            raise InvalidRequest(f"{path} is not a known field" + (f": {hint}" if hint else ""), field=path, code="unknown_parameter")

    @staticmethod
    def a_text(value: Any, path: str) -> str:
        """`value` as a string of valid Unicode."""
        if not isinstance(value, str):
            wrong_type(path, "a string", value)
        return valid_text(value, path)

    @staticmethod
    def a_boolean(value: Any, path: str) -> bool:
        """`value` as a boolean."""
        if not isinstance(value, bool):
            wrong_type(path, "a boolean", value)
        return value

    @staticmethod
    def a_list(value: Any, path: str) -> list[Any]:
        """`value` as a list."""
        if not isinstance(value, list):
            wrong_type(path, "a list", value)
        return value

    @staticmethod
    def an_integer(value: Any, path: str) -> int:
        """`value` as an integer; 1.0 and true are none."""
        if not isinstance(value, int) or isinstance(value, bool):
            wrong_type(path, "an integer", value)
        return value

    @staticmethod
    def a_number(value: Any, path: str) -> float:
        """`value` as a finite number."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            wrong_type(path, "a number", value)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise InvalidRequest(f"{path} must be a finite number", field=path)
        return number


def wrong_type(path: str, wanted: str, value: Any) -> NoReturn:
    """Refuse `value`, which is not `wanted`."""
    raise InvalidRequest(f"{path} must be {wanted}, not {kind(value)}", field=path, code="invalid_type")
