"""What a schema can't say, said to schemathesis: loaded by the runs of test_schemathesis.py, in schemathesis's own process."""

from typing import Any

import schemathesis

UNREAD = ("application/octet-stream", "text/csv")
"""Media whose inner form no JSON schema tells: tests/contract has them."""
MEASURED = "Inference-Header-Content-Length"
"""A header that must fit the body's length: so has it this one."""

BEYOND = (
    "answers no function call before it",
    "answers no tool call before it",
    "but data has",
    "context window",
    "data[0] must be a string, not",  # pandas' JSON within a string
    "is given twice",
    "is none of the tools",
    "is not supported",
    "is not valid JSON",
    "is not valid Unicode",
    "min_tokens must be between",
    "n must be 1: a row has one prediction",
    ", not a number",  # 1.0, an integer to JSON Schema
    "tools are not supported",
    "which can't guide an answer",
)
"""Refusals of bodies that fit their schema: fields that must agree, this model's own bounds. Everything else that fits must be accepted."""


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Leave out what is not to be made up."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict):
                content = operation.get("requestBody", {}).get("content", {})
                for media in UNREAD:
                    content.pop(media, None)
                if "parameters" in operation:
                    operation["parameters"] = [one for one in operation["parameters"] if one.get("name") != MEASURED]


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Whether a failure counts: a good body that was refused does, unless its refusal is one of `BEYOND`."""
    if type(failure).__name__ != "RejectedPositiveData":
        return True
    return not (any(words in response.text for words in BEYOND) or _beyond(case.body))


def _beyond(body: Any) -> bool:
    """A tensor whose one string is the JSON of a chat, where its schema ends at the string; a split table, whose columns say what its cells are."""
    if not isinstance(body, dict):
        return False
    inputs = body.get("inputs")
    chats = isinstance(inputs, list) and any(isinstance(one, dict) and one.get("name") == "messages" for one in inputs)
    return chats or body.get("dataframe_split") is not None
