"""Errors in each wire's own shape. The words come from `pilothouse.errors`: never another exception's text."""

from typing import Any

from pilothouse.errors import NotFound, PilothouseError, client_message, wire
from pilothouse.protocols.fields import shown

MLFLOW_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status to MLflow's word for it; the others (405, 408, 413, 415) have none there and are BAD_REQUEST."""


def openai_error(error: BaseException) -> dict[str, Any]:
    """OpenAI's error object; `param` is the field at fault."""
    row = wire(error)
    field, code = (error.field, error.code) if isinstance(error, PilothouseError) else (None, None)
    return {"error": {"message": client_message(error), "type": row.type, "param": field, "code": code or row.code}}


def v2_error(error: BaseException) -> dict[str, Any]:
    """The Open Inference Protocol's error: one string."""
    return {"error": client_message(error)}


def mlflow_error(error: BaseException) -> dict[str, Any]:
    """What MLflow's scoring server answers."""
    return {"error_code": MLFLOW_CODES.get(wire(error).status, "BAD_REQUEST"), "message": client_message(error)}


def unknown_model(name: str, served: str) -> NotFound:
    """The error for a model that is not served here."""
    return NotFound(f"model {shown(name)} is not served here; {served!r} is", field="model", code="model_not_found")
