"""Which JSON schemas may guide an answer: known keywords, and nothing that costs the compiler more than a moment.

Three kinds of schema would cost it minutes or the answer: intersections (allOf, or assertions beside a reference), large divisors and many
patterns. They are refused here, by keyword and place, as is every keyword that the compiler would ignore or does not know.
"""

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import orjson

from pilothouse.errors import InvalidRequest, Unsupported

FIELD = "response_format"
MAX_PROPERTIES = 400  # of one object: the parser's rows hold four items for each
MAX_BRANCHES = 400  # of one anyOf or oneOf
MAX_PATTERNS = 16
MAX_PATTERN = 256  # characters
MAX_DIVISOR = 10_000  # the automaton of a divisor has as many states

# fmt: off
ANNOTATIONS = frozenset((
    "$anchor", "$comment", "$defs", "$id", "$schema", "default", "definitions", "deprecated", "description", "discriminator", "example",
    "examples", "readOnly", "title", "writeOnly",
))
ASSERTIONS = frozenset((
    "$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items",
    "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minProperties", "minimum", "multipleOf", "oneOf",
    "pattern", "prefixItems", "properties", "required", "type",
))
# fmt: on
UNIONS = ("$ref", "allOf", "anyOf", "oneOf")  # what stands beside them is intersected with them


def read(text: str, max_bytes: int) -> dict[str, Any]:
    """The schema that `text` holds. Raises `InvalidRequest` when it is over `max_bytes` of UTF-8, or no JSON object."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise InvalidRequest(f"{FIELD}: the schema has {size} bytes; at most {max_bytes} are taken", field=FIELD)
    try:
        schema = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"{FIELD}: the schema is not JSON", field=FIELD) from None
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{FIELD}: the schema must be an object", field=FIELD)
    return schema


def judge(schema: dict[str, Any], max_depth: int, understood: Callable[[dict[str, Any]], bool]) -> None:
    """Refuse, by keyword and place, what can't guide an answer. `understood` says whether the compiler takes a small schema."""
    patterns, divisor = 0, 1
    waiting: list[tuple[Any, str, int]] = [(schema, "the schema", 1)]
    while waiting:
        node, where, depth = waiting.pop()
        if depth > max_depth:
            raise InvalidRequest(f"{FIELD}: the schema is nested more than {max_depth} levels deep", field=FIELD)
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise InvalidRequest(f"{FIELD}: {where} must be a schema: an object, true or false", field=FIELD)
        _keywords(node, where, understood)
        patterns += "pattern" in node
        if patterns > MAX_PATTERNS:
            raise Unsupported(f"{FIELD}: the schema has more than {MAX_PATTERNS} patterns; leave some out", field=FIELD)
        divisor *= _divisor(node.get("multipleOf", 1), where)
        if divisor > MAX_DIVISOR:
            raise Unsupported(f"{FIELD}: all multipleOf multiplied are more than {MAX_DIVISOR}; leave some out", field=FIELD)
        waiting.extend((child, f"{where}.{name}", depth + 1) for child, name in _children(node, where))


def _keywords(node: dict[str, Any], where: str, understood: Callable[[dict[str, Any]], bool]) -> None:
    for name in node:
        if name not in ASSERTIONS and name not in ANNOTATIONS:
            raise Unsupported(f"{FIELD}: {where} has {name!r:.60}, which can't guide an answer; leave it out", field=FIELD)
    for union in UNIONS:
        beside = ASSERTIONS & node.keys() - {union, "type"}
        if union in node and beside:
            raise Unsupported(f"{FIELD}: {where} has {union} beside {min(beside)}; move one of them into its own schema", field=FIELD)
    if len(_list(node, "allOf", where)) > 1:
        raise Unsupported(f"{FIELD}: {where} has allOf with several schemas; merge them into one", field=FIELD)
    if max(len(_list(node, "anyOf", where)), len(_list(node, "oneOf", where))) > MAX_BRANCHES:
        raise Unsupported(f"{FIELD}: {where} has more than {MAX_BRANCHES} alternatives", field=FIELD)
    if len(_map(node, "properties", where)) > MAX_PROPERTIES:
        raise Unsupported(f"{FIELD}: {where} has more than {MAX_PROPERTIES} properties", field=FIELD)
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise Unsupported(f"{FIELD}: {where} has a $ref outside the schema; put what it names under $defs", field=FIELD)
    if "pattern" in node:
        pattern = node["pattern"]
        if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
            raise Unsupported(f"{FIELD}: {where} has a pattern that is no string of at most {MAX_PATTERN} characters", field=FIELD)
        if lengths := node.keys() & {"format", "maxLength", "minLength"}:
            raise Unsupported(f"{FIELD}: {where} has pattern beside {min(lengths)}; say both in the pattern", field=FIELD)
        if not understood({"type": "string", "pattern": pattern}):
            raise Unsupported(
                f"{FIELD}: {where} has a pattern that is no regular expression without look-around and references", field=FIELD
            )
    if "format" in node and not understood({"type": "string", "format": node["format"]}):
        raise Unsupported(f"{FIELD}: {where} has a format that can't guide an answer; leave it out or use pattern", field=FIELD)


def _divisor(value: Any, where: str) -> int:
    """The digits of a multipleOf, which its automaton counts by."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InvalidRequest(f"{FIELD}: {where} has a multipleOf that is no positive number", field=FIELD)
    _, digits, exponent = Decimal(str(value)).as_tuple()
    if not isinstance(exponent, int) or not -6 <= exponent <= 6:
        raise Unsupported(f"{FIELD}: {where} has a multipleOf with more than six decimal places or zeros", field=FIELD)
    whole: int = int("".join(map(str, digits))) * 10 ** max(exponent, 0)
    return whole


def _list(node: dict[str, Any], name: str, where: str) -> list[Any]:
    found = node.get(name, [])
    if not isinstance(found, list):
        raise InvalidRequest(f"{FIELD}: {where}.{name} must be a list", field=FIELD)
    return found


def _map(node: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    found = node.get(name, {})
    if not isinstance(found, dict):
        raise InvalidRequest(f"{FIELD}: {where}.{name} must be an object", field=FIELD)
    return found


def _children(node: dict[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    """The schemas right under `node`, each with its place."""
    for name in ("$defs", "definitions", "properties"):
        for key, child in _map(node, name, where).items():
            yield child, f"{name}.{key:.60}"
    for name in ("allOf", "anyOf", "oneOf", "prefixItems"):
        for at, child in enumerate(_list(node, name, where)):
            yield child, f"{name}.{at}"
    for name in ("additionalProperties", "items"):
        if name in node:
            yield node[name], name
