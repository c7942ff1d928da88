"""The error tree, by what the caller should do, and the one table that turns it into a wire's error.

Messages are written for the client: they name the field and the way out, and never carry another exception's text.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass


class PilothouseError(Exception):
    """Base of everything a client may be told. `field` is the request's field at fault, `code` a stable machine word."""

    def __init__(self, message: str, *, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.code = code

    def renamed(self, names: Mapping[str, str]) -> "PilothouseError":
        """This error as a wire says it that has other names for some fields; itself where its field is none of them."""
        if self.field is None or self.field not in names:
            return self
        name = names[self.field]
        return type(self)(self.message.replace(self.field, name, 1), field=name, code=self.code)


class InvalidRequest(PilothouseError):
    """The request is wrong; sending it again is useless."""


class Unsupported(InvalidRequest):
    """A known field or value that this model or engine can't honour: refused by name, never ignored."""


class ContextLengthExceeded(InvalidRequest):
    """Prompt and wanted answer do not fit the context window."""


class Unauthenticated(PilothouseError):
    """No key, or a wrong one."""


class PermissionDenied(PilothouseError):
    """A right key that may not do this."""


class NotFound(PilothouseError):
    """No such route, model or version."""


class MethodNotAllowed(PilothouseError):
    """The route exists, with other methods."""


class PayloadTooLarge(PilothouseError):
    """The body is over the limit, as sent or inflated."""


class UnsupportedMedia(PilothouseError):
    """A content type or encoding that is not read here."""


class RequestTimeout(PilothouseError):
    """The client did not send its request in time."""


SPREAD = 1.5  # of a retry's time


class Retryable(PilothouseError):
    """Nothing is wrong with the request: the same one succeeds later. `retry_after` is in seconds.

    Whole seconds would bring back together all who were refused together: `Retry-After-Ms`, which OpenAI's clients prefer, spreads them.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0, field: str | None = None, code: str | None = None) -> None:
        super().__init__(message, field=field, code=code)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """When to come back: whole seconds, at least one; and in milliseconds, drawn anew, up to half as long again."""
        seconds = max(1, math.ceil(self.retry_after))
        return {"retry-after": str(seconds), "retry-after-ms": str(round(seconds * 1000 * random.uniform(1, SPREAD)))}


class Overloaded(Retryable):
    """The queue is full, or a request waited in it for too long."""


class NotReady(Retryable):
    """Loading, draining, or the engine is being restarted."""


class DeadlineExceeded(PilothouseError):
    """The request ran longer than the server's limit."""


class EngineFailed(PilothouseError):
    """The engine broke under this request; its reason is in the log, not in the answer."""

    def __init__(
        self, message: str = "the engine failed; the reason is in the server's log", *, field: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, field=field, code=code)


class StartError(Exception):
    """The process can't start: one line that says what is wrong and what to do. Never sent to a client."""


class ModelError(StartError):
    """The model can't be loaded: missing, not a model, unsupported, tampered with."""


@dataclass(frozen=True, slots=True)
class Wire:
    """An error as the wires spell it: HTTP status, gRPC status name, OpenAI's type and its default code."""

    status: int
    grpc: str
    type: str
    code: str


TABLE: dict[type[Exception], Wire] = {
    ContextLengthExceeded: Wire(400, "INVALID_ARGUMENT", "invalid_request_error", "context_length_exceeded"),
    Unsupported: Wire(400, "INVALID_ARGUMENT", "invalid_request_error", "unsupported_parameter"),
    InvalidRequest: Wire(400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_value"),
    Unauthenticated: Wire(401, "UNAUTHENTICATED", "authentication_error", "invalid_api_key"),
    PermissionDenied: Wire(403, "PERMISSION_DENIED", "permission_error", "permission_denied"),
    NotFound: Wire(404, "NOT_FOUND", "invalid_request_error", "not_found"),
    MethodNotAllowed: Wire(405, "UNIMPLEMENTED", "invalid_request_error", "method_not_allowed"),
    RequestTimeout: Wire(408, "DEADLINE_EXCEEDED", "invalid_request_error", "request_timeout"),
    PayloadTooLarge: Wire(413, "RESOURCE_EXHAUSTED", "invalid_request_error", "payload_too_large"),
    UnsupportedMedia: Wire(415, "INVALID_ARGUMENT", "invalid_request_error", "unsupported_media_type"),
    Overloaded: Wire(429, "RESOURCE_EXHAUSTED", "rate_limit_error", "overloaded"),
    NotReady: Wire(503, "UNAVAILABLE", "service_unavailable_error", "not_ready"),
    DeadlineExceeded: Wire(504, "DEADLINE_EXCEEDED", "timeout_error", "deadline_exceeded"),
    EngineFailed: Wire(500, "INTERNAL", "server_error", "engine_failed"),
}
INTERNAL = Wire(500, "INTERNAL", "server_error", "internal_error")


def wire(error: BaseException) -> Wire:
    """The wire form of `error`: its own class's row or the nearest parent's; anything foreign is an internal error."""
    for kind in type(error).__mro__:
        if kind in TABLE:
            return TABLE[kind]
    return INTERNAL


def client_message(error: BaseException) -> str:
    """What a client may read of `error`: the message of ours, a fixed sentence for anything else."""
    return error.message if isinstance(error, PilothouseError) else "internal error; the reason is in the server's log"
