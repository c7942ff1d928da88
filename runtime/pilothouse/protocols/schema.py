"""Answers of a promised shape: `response_format` to a `Guide`, and the bounds of every JSON schema that a client sends.

Compiling a schema costs time and memory that grow with its size, its depth and its patterns, so all three are bounded before it is.
"""

from typing import Any

import orjson

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Guide
from pilothouse.protocols.fields import Fields, shown
from pilothouse.protocols.limits import Limits

MAX_PATTERN = 512  # characters of one `pattern`


def guide(fields: Fields, limits: Limits, name: str = "response_format", *, flat: bool = False) -> Guide | None:
    """The guide that `response_format` asks for; None for text. `flat`: the schema stands beside the type, in no object of its own."""
    form = fields.object(name)
    if form is None:
        return None
    sort = form.need_text("type")
    match sort:
        case "text":
            found = None
        case "json_object":
            found = Guide("json_object")
        case "json_schema":
            found = Guide("json_schema", _named_schema(form if flat else form.need_object("json_schema"), limits))
        case _:
            raise Unsupported(
                f"{form.path('type')} {shown(sort)} is not supported: send text, json_object or json_schema", field=form.path("type")
            )
    form.finish()
    return found


def _named_schema(fields: Fields, limits: Limits) -> str:
    fields.need_identifier("name")
    fields.text("description")
    fields.boolean("strict")  # a guided answer always fits its schema
    schema = checked(fields.need("schema"), fields.path("schema"), limits)
    fields.finish()
    return schema


def checked(schema: Any, path: str, limits: Limits) -> str:
    """The schema as JSON text, its keys in the client's order.

    Raises `InvalidRequest` for one that is no object, too large, too deep, has a long `pattern`, or refers outside itself.
    """
    Fields(schema, path)
    try:
        text = orjson.dumps(schema)
    except TypeError:
        _walk(schema, path, limits)  # too deep to be written is too deep
        raise InvalidRequest(f"{path} has text that is not valid Unicode, or a number beyond 64 bits", field=path) from None
    if len(text) > limits.max_schema_bytes:
        raise InvalidRequest(f"{path} has {len(text)} bytes; at most {limits.max_schema_bytes} are taken", field=path)
    _walk(schema, path, limits)
    return text.decode()


def _walk(schema: Any, path: str, limits: Limits) -> None:
    """Level by level, without recursion: the depth is the client's."""
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > limits.max_schema_depth:
            raise InvalidRequest(f"{path} is nested more than {limits.max_schema_depth} levels deep", field=path)
        below: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                _judge(node, path)
            children = node.values() if isinstance(node, dict) else node
            below.extend(child for child in children if isinstance(child, dict | list))
        level = below


def _judge(node: dict[str, Any], path: str) -> None:
    pattern = node.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise InvalidRequest(f"{path} has a pattern of {len(pattern)} characters; at most {MAX_PATTERN} are taken", field=path)
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise InvalidRequest(f"{path} has a $ref that leaves the schema; only references that begin with # are followed", field=path)
