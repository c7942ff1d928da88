"""The few shapes that JSON schemas here are made of."""

from collections.abc import Iterable, Mapping
from typing import Any

Schema = dict[str, Any]

ANYTHING: Schema = {}
NULL: Schema = {"type": "null"}
TEXT: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def fixed(value: Any) -> Schema:
    return {"const": value}


def text(shortest: int = 0, longest: int | None = None) -> Schema:
    return {"type": "string", "minLength": shortest} | ({} if longest is None else {"maxLength": longest})


def integer(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def items(of: Schema, least: int = 0, most: int | None = None) -> Schema:
    return {"type": "array", "items": of, "minItems": least} | ({} if most is None else {"maxItems": most})


def maybe(schema: Schema) -> Schema:
    """`schema`, or null: "not set"."""
    return {"anyOf": [schema, NULL]}


def thing(required: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None, **more: Any) -> Schema:
    """An object of these fields and no other."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False} | more


def settable(fields: Mapping[str, Schema]) -> dict[str, Schema]:
    """Optional fields, each of which may be null."""
    return {name: maybe(schema) for name, schema in fields.items()}


def refused(names: Iterable[str]) -> dict[str, Schema]:
    """Known fields that can't be honoured: only null is taken."""
    return dict.fromkeys(names, NULL)


def given(**fields: Schema) -> Schema:
    """Holds for an object where each of these fields is there and fits its schema."""
    return {"type": "object", "required": list(fields), "properties": fields}


def implies(condition: Schema, then: Schema) -> Schema:
    return {"if": condition, "then": then}


def events(*kinds: Schema, done: bool) -> Schema:
    """One event of a stream, as tools read OpenAPI 3.1 for text/event-stream: its data are the JSON of one of `kinds`; with `done`, the
    last event's are `[DONE]`."""
    told: Schema = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"anyOf": list(kinds)}}
    data = {"if": fixed("[DONE]"), "else": told} if done else told
    return {"type": "object", "required": ["data"], "properties": {"data": data}}
