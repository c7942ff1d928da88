"""Schemas of V2's requests, and Triton's short form of them."""

from typing import Any

from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openapi.chats import options
from pilothouse.protocols.openapi.schemas import (
    ANYTHING,
    BOOLEAN,
    NULL,
    TEXT,
    Schema,
    fixed,
    integer,
    items,
    maybe,
    ref,
    settable,
    text,
    thing,
)

TRITON = {"^triton_": {"not": NULL}}
"""Triton's clients say how they want a stream to end; nothing else is said so."""


def tensors(limits: Limits) -> dict[str, Schema]:
    """Every schema here by its name in the document."""
    return {
        "InferenceRequest": _inference(limits),
        "InferenceParameters": {
            "type": "object",
            "properties": _v2_options(limits),
            "patternProperties": TRITON,
            "additionalProperties": False,
        },
        "GenerateRequest": _generate(allOf=[ref("InferenceParameters")], properties={"n": maybe(fixed(1))}),
        "GenerateStreamRequest": _generate(allOf=[ref("InferenceParameters")]),
    }


def _generate(**parameters: Any) -> Schema:
    """Triton's form; `generate` has room for one text, a stream's events say which choice they are of."""
    return thing({"text_input": text(1)}, settable({"id": TEXT, "parameters": parameters}))


def _v2_options(limits: Limits) -> dict[str, Schema]:
    """Null is no value of a parameter. Where gRPC and typed clients can send strings only, a string may hold the JSON of the value."""
    json_text = {"type": "string", "contentMediaType": "application/json"}
    found = options(limits)
    for name in ("logit_bias", "stop_token_ids"):
        found[name] = {"anyOf": [found[name], json_text]}
    return found | {
        "response_format": {"anyOf": [ref("ResponseFormat"), json_text]},
        "binary_data_output": BOOLEAN,
        "content_type": maybe({"enum": ["str", "pd", "pd_json"]}),
        "headers": maybe({"type": "object"}),
    }


def _inference(limits: Limits) -> Schema:
    def tensor(name: str, shape: Schema, data: Schema) -> Schema:
        about: dict[str, Schema] = {"content_type": {"enum": ["str", "pd_json"]}, "headers": {"type": "object"}}
        return thing(
            {"name": fixed(name), "datatype": fixed("BYTES"), "shape": shape, "data": data},
            {"parameters": maybe(thing({}, settable(about)))},
        )

    def kinds(name: str, most: int) -> list[Schema]:
        """Flat, or nested as the shape [n, 1] says."""
        rows = integer(1, most)
        column = {"type": "array", "prefixItems": [rows, fixed(1)], "minItems": 2, "maxItems": 2}
        flat: Schema = {"anyOf": [items(rows, 1, 1), column]}
        return [
            tensor(name, flat, items(text(1), 1, most)),
            tensor(name, column, items({"anyOf": [text(1), items(text(1), 1, 1)]}, 1, most)),
        ]

    output = thing(
        {"name": fixed("output")},
        settable(
            {
                "parameters": thing(
                    {}, {**settable({"content_type": TEXT, "headers": {"type": "object"}, "binary_data": BOOLEAN}), "classification": NULL}
                )
            }
        ),
    )
    return thing(
        {"inputs": items({"anyOf": [*kinds("prompt", limits.max_rows), *kinds("messages", 1)]}, 1, 1)},
        {
            **settable({"id": TEXT, "parameters": ref("InferenceParameters"), "outputs": items(output, most=1)}),
            "model_name": ANYTHING,
            "model_version": ANYTHING,
        },
        description="Exactly one input: prompts [n], or one conversation as a JSON list [1]. Shape and data agree.",
    )
