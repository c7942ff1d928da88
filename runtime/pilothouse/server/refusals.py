"""An error as the caller of a path expects it: OpenAI's object under /v1, MLflow's at its own paths, `{"error": str}` elsewhere.

Every REST error leaves through `refusal`, so that no traceback, no foreign exception's text and no framework's own shape gets out.
"""

from collections.abc import Iterable
from http import HTTPStatus

import orjson
from mlserver.errors import MLServerError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pilothouse import errors
from pilothouse.errors import MethodNotAllowed, NotFound, PilothouseError, Retryable, Unauthenticated
from pilothouse.protocols import failures
from pilothouse.protocols.fields import shown

MLFLOW_PATHS = ("/invocations",)

_BODIES = {"openai": failures.openai_error, "mlflow": failures.mlflow_error}


def protocol_of(path: str) -> str:
    """Whose error shape and metrics label a path has."""
    if path == "/v1" or path.startswith("/v1/"):
        return "openai"
    if path in MLFLOW_PATHS:
        return "mlflow"
    return "v2" if path == "/v2" or path.startswith("/v2/") else "other"


def body(protocol: str, error: BaseException) -> bytes:
    """The error as JSON in the shape of `protocol`."""
    return orjson.dumps(_BODIES.get(protocol, failures.v2_error)(error))


def refusal(path: str, error: BaseException) -> Response:
    """The response for `error` at `path`, with the headers its class asks for."""
    headers: dict[str, str] = {}
    if isinstance(error, Retryable):
        headers |= error.headers
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WrongMethod):
        headers["Allow"] = ", ".join(error.allowed)
    status = error.status if isinstance(error, TooManyHeaders) else errors.wire(error).status
    return Response(body(protocol_of(path), error), status, headers, media_type="application/json")


class WrongMethod(MethodNotAllowed):
    """`MethodNotAllowed` with the methods that are."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.allowed = sorted(allowed)
        super().__init__(f"this method is not allowed here; allowed: {', '.join(self.allowed)}")


class TooManyHeaders(errors.InvalidRequest):
    """431, which the table has no row for."""

    status = 431


def hosted(error: MLServerError) -> PilothouseError:
    """MLServer's error by its status; its text may hold what a client sent, or a path."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound("no such model or version", code="model_not_found")
    return errors.InvalidRequest("the model could not read this request")


def translated(error: BaseException, path: str) -> PilothouseError | None:
    """A framework's exception as one of ours; None for a foreign one, whose text stays in the log."""
    if isinstance(error, PilothouseError):
        return error
    if isinstance(error, HTTPException):
        if error.status_code == HTTPStatus.NOT_FOUND:
            return NotFound(f"no such path: {shown(path)}")
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return WrongMethod((error.headers or {}).get("Allow", "").split(", "))
        if 400 <= error.status_code < 500:
            return errors.InvalidRequest(HTTPStatus(error.status_code).phrase.lower())
    return None
