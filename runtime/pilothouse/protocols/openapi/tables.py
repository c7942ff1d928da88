"""Schemas of the forms that `/invocations` takes."""

from typing import Any

from pilothouse.protocols.invocations import FORMS, ROW_REFUSED
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openapi.chats import PARALLEL, SCORED, TOOLED, chat_fields, options
from pilothouse.protocols.openapi.schemas import (
    ANYTHING,
    BOOLEAN,
    NULL,
    TEXT,
    Schema,
    fixed,
    items,
    maybe,
    ref,
    refused,
    settable,
    text,
    thing,
)
from pilothouse.protocols.tables import MAX_COLUMNS


def tables(limits: Limits) -> dict[str, Schema]:
    """Every schema here by its name in the document."""
    row_options = {**settable(options(limits)), **settable({"response_format": ref("ResponseFormat")}), **refused(ROW_REFUSED)}
    row_options |= {"n": maybe(fixed(1)), "stream": maybe(fixed(False)), "messages": NULL}
    chat = {**chat_fields(limits), "custom_inputs": NULL}
    unstreamed = {"stream": maybe(fixed(False))}
    chat_rules = [SCORED, TOOLED, PARALLEL]
    prompts, conversations = items(text(1), 1, limits.max_rows), items(ref("Messages"), 1, limits.max_rows)
    row: Schema = {
        "anyOf": [
            thing({"prompt": text(1)}, row_options),
            thing({"messages": ref("Messages")}, {**chat, **unstreamed}, allOf=chat_rules),
        ]
    }
    table: Schema = {
        "anyOf": [
            text(1),
            items({"anyOf": [text(1), row]}, 1, limits.max_rows),
            thing({"prompt": {"anyOf": [text(1), prompts]}}, row_options),
            thing({"messages": {"anyOf": [ref("Messages"), conversations]}}, {**chat, **unstreamed}, allOf=chat_rules),
        ]
    }
    cells = {"type": "array", "description": "As many cells as there are columns."}
    frame = thing({"columns": items(TEXT, 1, MAX_COLUMNS), "data": items(cells, 1, limits.max_rows)}, {"index": ANYTHING})
    params = {"params": maybe(ref("InvocationParams"))}

    def form(name: str, schema: Schema, more: dict[str, Schema], **rules: Any) -> Schema:
        others = refused(other for other in FORMS if other != name)
        return thing({name: schema}, {**others, **params, **more}, **rules)

    return {
        "InvocationParams": thing(
            {}, {**settable(options(limits)), **settable({"response_format": ref("ResponseFormat")}), **refused(ROW_REFUSED)}
        ),
        "InvocationRow": row,
        "InvocationTable": table,
        "InvocationRequest": {
            "anyOf": [
                form("messages", ref("Messages"), {**chat, "stream": maybe(BOOLEAN)}, allOf=chat_rules),
                form("prompt", {"anyOf": [text(1), prompts]}, {k: v for k, v in row_options.items() if k != "messages"}),
                form("inputs", ref("InvocationTable"), {}),
                form("instances", ref("InvocationTable"), {}),
                form("dataframe_split", frame, {}),
                form("dataframe_records", items(ref("InvocationRow"), 1, limits.max_rows), {}),
            ]
        },
    }
