"""Schemas of feedback, within the bounds that `protocols.feedback` holds it to."""

from pilothouse.protocols.feedback import MOST_RATIONALE, MOST_USER, MOST_VALUE, NAME, TRACE
from pilothouse.protocols.openapi.schemas import BOOLEAN, TEXT, Schema, settable, text, thing

_TRACE: Schema = {"type": "string", "pattern": f"^{TRACE.pattern}$"}
_VALUE: Schema = {"anyOf": [BOOLEAN, {"type": "number"}, text(1, MOST_VALUE)]}

FEEDBACK: dict[str, Schema] = {
    "FeedbackRequest": thing(
        {"trace_id": _TRACE, "value": _VALUE},
        settable(
            {"name": {"type": "string", "pattern": f"^{NAME.pattern}$"}, "rationale": text(1, MOST_RATIONALE), "user": text(1, MOST_USER)}
        ),
    ),
    "FeedbackTaken": thing({"id": TEXT, "trace_id": _TRACE, "name": TEXT}),
}
