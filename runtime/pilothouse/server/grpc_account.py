"""One gRPC call's account: its status on every way out, its line in the log, its place in the metrics.

Every error leaves through `abort`, with the status of the table.
"""

import logging
import time
from typing import Any, NoReturn

import grpc
from mlserver.errors import MLServerError

from pilothouse import calls, errors
from pilothouse.errors import PilothouseError, Retryable
from pilothouse.metrics import Metrics
from pilothouse.server.finished import ANSWERS, Finished, outcome_of
from pilothouse.server.refusals import hosted

log = logging.getLogger("pilothouse.server")

_PROBES = frozenset({"ServerLive", "ServerReady", "ModelReady"})


class Account:
    """One call's account: its status on every way out, its line in the log, its place in the metrics."""

    def __init__(self, name: str, context: Any, metrics: Metrics, finished: Finished) -> None:
        """`name` is the method's, `context` gRPC's own of this call."""
        self._name = name
        self._context = context
        self._metrics = metrics
        self._finished = finished

    async def __aenter__(self) -> None:
        self._began = time.monotonic()
        self._context.set_trailing_metadata(_ids())

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        status = "OK"
        try:
            if isinstance(error, Exception):
                if not isinstance(error, PilothouseError | MLServerError):
                    log.error("request %s failed", calls.current().id, exc_info=error)
                error = hosted(error) if isinstance(error, MLServerError) else error
                status = errors.wire(error).grpc
                await abort(self._context, error)
            elif error is not None:
                status = "CANCELLED"
        finally:
            self._note(status, error)

    def _note(self, status: str, error: BaseException | None) -> None:
        call = calls.current()
        if self._name in ANSWERS and call.outcome == "none":
            ended = "cancelled" if status == "CANCELLED" else outcome_of(errors.wire(error).status if error is not None else 200)
            self._metrics.outcome("grpc", ended)
        call.route, call.status, call.seconds = self._name, status, time.monotonic() - self._began
        self._finished(call, quiet=self._name in _PROBES)


async def abort(context: Any, error: Exception) -> NoReturn:
    """End the call with the error's status; its text is ours or fixed."""
    await context.abort(_status(error), errors.client_message(error), _trailers(error))
    raise AssertionError("abort returned")


def _status(error: Exception) -> grpc.StatusCode:
    return grpc.StatusCode[errors.wire(error).grpc]


def _trailers(error: Exception) -> tuple[tuple[str, str], ...]:
    return (*_ids(), *error.headers.items()) if isinstance(error, Retryable) else _ids()


def _ids() -> tuple[tuple[str, str], ...]:
    call = calls.current()
    return (("x-request-id", call.id), *([("x-trace-id", call.trace)] if call.trace else []))
