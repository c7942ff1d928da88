"""Where every request ends, over REST and gRPC alike: one line in the access log, then whoever else reads finished calls.

Listeners are called on the event loop, once a call, with the whole `Call`: they must be quick (put it into a queue) and hold no content,
for a `Call` has none.
"""

import logging
from collections.abc import Callable
from typing import Any

from pilothouse.calls import Call

log = logging.getLogger("pilothouse.server")
access = logging.getLogger("pilothouse.access")

Listener = Callable[[Call], None]

ANSWERS = frozenset({"ModelInfer", "ModelStreamInfer"})
"""The gRPC methods that ask for an answer."""


class Finished:
    """Tells of each call that has ended."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def tell(self, listener: Listener) -> None:
        """Have `listener` called with each call from now on."""
        self._listeners.append(listener)

    def __call__(self, call: Call, *, quiet: bool = False) -> None:
        """`call` has ended. A quiet one is a probe: in the log at debug only, and told to nobody."""
        access.log(logging.DEBUG if quiet else logging.INFO, "request", extra={"fields": line(call)})
        for listener in () if quiet else self._listeners:
            try:
                listener(call)
            except Exception:
                log.exception("a listener failed for request %s", call.id)


def line(call: Call) -> dict[str, Any]:
    """The access line: who asked, how it ended, what it cost. Never content, never a key."""
    told: dict[str, Any] = {"id": call.id, "key": call.tenant, "protocol": call.protocol}
    if call.method:
        told["method"] = call.method
    told |= {"route": call.route, "status": call.status, "outcome": ended(call), "ms": _ms(call.seconds)}
    if call.outcome != "none":
        told |= {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens, "cached_tokens": call.cached_tokens}
        told |= {"queue_ms": _ms(call.queue_seconds), "ttft_ms": _ms(call.first_token_seconds)}
    if call.trace_id:
        told["trace"] = call.trace_id
    return told


def ended(call: Call) -> str:
    """How a call ended, also one that never met the engine."""
    if call.outcome != "none":
        return call.outcome
    if isinstance(call.status, int):
        return "cancelled" if call.status == CLIENT_GONE else outcome_of(call.status)
    return {"OK": "ok", "CANCELLED": "cancelled", "INTERNAL": "failed", "UNKNOWN": "failed"}.get(call.status, "refused")


CLIENT_GONE = 499  # nginx's word for it; in the log only


def outcome_of(status: int) -> str:
    """How a request that never met the engine ended, for its metric."""
    return "ok" if status < 400 else "refused" if status < 500 or status == 503 else "failed"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
