"""Feedback is one bounded object: what is taken, what is refused by name, and the document says the same."""

import json
from typing import Any

import jsonschema
import pytest

from pilothouse.errors import InvalidRequest
from pilothouse.protocols.feedback import Feedback, feedback
from pilothouse.protocols.openapi.feedback import FEEDBACK

TRACE = "tr-" + "0123456789abcdef" * 2


@pytest.mark.parametrize("value", [True, False, 1, 0.5, -3, "good", "x" * 256])
def test_the_least_feedback_is_a_trace_and_a_value(value: Any) -> None:
    """A boolean, a number or a short text; its name is ours where the client has none."""
    body = {"trace_id": TRACE, "value": value}
    taken = feedback(json.dumps(body).encode())
    assert taken == Feedback(TRACE, value, "user_feedback", None, None)
    assert type(taken.value) in (bool, float, str)
    jsonschema.validate(body, FEEDBACK["FeedbackRequest"])


def test_it_may_have_a_name_a_reason_and_a_user() -> None:
    """All of them optional, null is none."""
    body = {"trace_id": TRACE, "value": "bad", "name": "style.tone", "rationale": "too\nlong", "user": "anna"}
    assert feedback(json.dumps(body).encode()) == Feedback(TRACE, "bad", "style.tone", "too\nlong", "anna")
    nulls = {"trace_id": TRACE, "value": 1, "name": None, "rationale": None, "user": None}
    assert feedback(json.dumps(nulls).encode()) == Feedback(TRACE, 1.0)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"value": 1}, "trace_id"),
    ({"trace_id": TRACE}, "value"),
    ({"trace_id": TRACE, "value": None}, "value"),
    ({"trace_id": TRACE.removeprefix("tr-"), "value": 1}, "trace_id"),
    ({"trace_id": TRACE + "/../x", "value": 1}, "trace_id"),
    ({"trace_id": TRACE.upper(), "value": 1}, "trace_id"),
    ({"trace_id": 7, "value": 1}, "trace_id"),
    ({"trace_id": TRACE, "value": []}, "value"),
    ({"trace_id": TRACE, "value": {}}, "value"),
    ({"trace_id": TRACE, "value": ""}, "value"),
    ({"trace_id": TRACE, "value": "x" * 257}, "value"),
    ({"trace_id": TRACE, "value": 1, "name": "a b"}, "name"),
    ({"trace_id": TRACE, "value": 1, "name": "mlflow/x"}, "name"),
    ({"trace_id": TRACE, "value": 1, "name": ""}, "name"),
    ({"trace_id": TRACE, "value": 1, "name": "x" * 65}, "name"),
    ({"trace_id": TRACE, "value": 1, "rationale": "x" * 4097}, "rationale"),
    ({"trace_id": TRACE, "value": 1, "rationale": 1}, "rationale"),
    ({"trace_id": TRACE, "value": 1, "user": ""}, "user"),
    ({"trace_id": TRACE, "value": 1, "user": "x" * 129}, "user"),
    ({"trace_id": TRACE, "value": 1, "other": 1}, "other"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_what_is_wrong_is_named_and_the_document_refuses_it_too(body: dict[str, Any], field: str) -> None:
    """The parser's verdict is the schema's."""
    with pytest.raises(InvalidRequest) as refused:
        feedback(json.dumps(body).encode())
    assert refused.value.field == field
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, FEEDBACK["FeedbackRequest"])


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"trace_id": "\xff"}', b'{"value": 1e999}', b'{"trace_id": "x", "value": "\\ud800"}'])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    """As everywhere."""
    with pytest.raises(InvalidRequest):
        feedback(raw)
