"""Errors in each wire's shape."""

from typing import Any

import pytest

from pilothouse import errors
from pilothouse.protocols.failures import mlflow_error, openai_error, unknown_model, v2_error

ANY = [kind("Say what to do") for kind in errors.TABLE]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            errors.InvalidRequest("n must be 1", field="n"),
            {"message": "n must be 1", "type": "invalid_request_error", "param": "n", "code": "invalid_value"},
        ),
        (
            errors.InvalidRequest("n must be 1", field="n", code="invalid_type"),
            {"message": "n must be 1", "type": "invalid_request_error", "param": "n", "code": "invalid_type"},
        ),
        (
            errors.ContextLengthExceeded("too long", field="messages"),
            {"message": "too long", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"},
        ),
        (
            errors.Unauthenticated("send a key"),
            {"message": "send a key", "type": "authentication_error", "param": None, "code": "invalid_api_key"},
        ),
        (errors.Overloaded("full"), {"message": "full", "type": "rate_limit_error", "param": None, "code": "overloaded"}),
        (
            RuntimeError("/etc/secret"),
            {
                "message": "internal error; the reason is in the server's log",
                "type": "server_error",
                "param": None,
                "code": "internal_error",
            },
        ),
    ],
)
def test_openais_error_object(error: Exception, expected: dict[str, Any]) -> None:
    """Message, type, param and code; a foreign exception says nothing of itself."""
    assert openai_error(error) == {"error": expected}


@pytest.mark.parametrize("error", [*ANY, RuntimeError("/etc/secret")])
def test_v2_errors_are_one_string(error: Exception) -> None:
    """The protocol's own shape, with our words or a fixed sentence."""
    assert v2_error(error) == {"error": errors.client_message(error)}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), "BAD_REQUEST"),
        (errors.PayloadTooLarge("x"), "BAD_REQUEST"),
        (errors.Unauthenticated("x"), "UNAUTHENTICATED"),
        (errors.PermissionDenied("x"), "PERMISSION_DENIED"),
        (errors.NotFound("x"), "NOT_FOUND"),
        (errors.Overloaded("x"), "RESOURCE_EXHAUSTED"),
        (errors.NotReady("x"), "TEMPORARILY_UNAVAILABLE"),
        (errors.DeadlineExceeded("x"), "DEADLINE_EXCEEDED"),
        (errors.EngineFailed("x"), "INTERNAL_ERROR"),
    ],
)
def test_mlflow_errors_have_mlflows_words(error: errors.PilothouseError, code: str) -> None:
    """MLflow's clients switch on error_code."""
    assert mlflow_error(error) == {"error_code": code, "message": "x"}


def test_an_unknown_model_is_named_beside_the_served_one() -> None:
    """The client learns what it asked for, what it could have asked for, and OpenAI's code for it."""
    error = unknown_model("gpt-9" + "x" * 100, "phi3")

    assert error.message == f"model 'gpt-9{'x' * 59}'... is not served here; 'phi3' is"
    assert (error.field, error.code, errors.wire(error).status) == ("model", "model_not_found", 404)
