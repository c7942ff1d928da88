"""Feedback on an answer, by the trace id that came with it: one JSON object, bounded in every field."""

import re
from dataclasses import dataclass

from pilothouse.errors import InvalidRequest
from pilothouse.protocols.fields import Fields, document, kind, shown

PATH = "/v1/feedback"
TRACE = re.compile(r"tr-[0-9a-f]{32}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_VALUE = 256  # characters of a text value
MOST_RATIONALE = 4096
MOST_USER = 128
DEFAULT_NAME = "user_feedback"

Value = bool | float | str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody thinks of one answer."""

    trace_id: str
    value: Value
    name: str = DEFAULT_NAME
    rationale: str | None = None
    user: str | None = None  # who says so, as the client's own system names them


def feedback(raw: bytes) -> Feedback:
    """The feedback in a body. Raises `InvalidRequest` that names the field."""
    fields = Fields(document(raw))
    trace_id = fields.need_text("trace_id")
    if not TRACE.fullmatch(trace_id):
        raise InvalidRequest(
            f"trace_id must be tr- and 32 hex digits, as the X-Trace-Id header has it, not {shown(trace_id)}", field="trace_id"
        )
    value = fields.need("value")
    if isinstance(value, str):
        value = _bounded(value, "value", MOST_VALUE)
    elif not isinstance(value, bool):
        if not isinstance(value, int | float):
            raise InvalidRequest(f"value must be a boolean, a number or a string, not {kind(value)}", field="value", code="invalid_type")
        value = Fields.a_number(value, "value")
    name = fields.text("name")
    if name is not None and not NAME.fullmatch(name):
        raise InvalidRequest(f"name must be 1 to 64 letters, digits, _, . and -, not {shown(name)}", field="name")
    rationale, user = fields.text("rationale"), fields.text("user")
    fields.finish()
    return Feedback(
        trace_id,
        value,
        name or DEFAULT_NAME,
        None if rationale is None else _bounded(rationale, "rationale", MOST_RATIONALE),
        None if user is None else _bounded(user, "user", MOST_USER),
    )


def _bounded(text: str, field: str, most: int) -> str:
    Fields.a_text(text, field)
    if not text:
        raise InvalidRequest(f"{field} is empty; leave it out, or say something", field=field)
    if len(text) > most:
        raise InvalidRequest(f"{field} has {len(text)} characters; at most {most} are taken", field=field)
    return text
