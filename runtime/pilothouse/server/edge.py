"""The outermost layer of REST: every request gets an id and an account, every refusal its shape, and the access log its one line.

Pure ASGI, as all layers here: Starlette's BaseHTTPMiddleware would put a task between a stream and its client.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse import calls, ids
from pilothouse.calls import Call
from pilothouse.errors import PilothouseError
from pilothouse.metrics import Metrics
from pilothouse.protocols import feedback
from pilothouse.server.finished import CLIENT_GONE, Finished, outcome_of
from pilothouse.server.health import Health
from pilothouse.server.pipe import pipe
from pilothouse.server.refusals import TooManyHeaders, protocol_of, refusal

if TYPE_CHECKING:
    from pilothouse.server.traces import Traces

log = logging.getLogger("pilothouse.server")

REPOSITORY = "/v2/repository/"
PROBES = frozenset(
    {
        *("/v2/health/live", "/v2/health/ready", "/ping", "/health"),
        *("/v2/models/{model}/ready", "/v2/models/{model}/versions/{version}/ready"),
    }
)

TRACE_HEADERS = ("traceparent", "tracestate")

_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def request_id(given: str | None) -> str:
    """The client's id where it is short and plain enough for a log, else a new one."""
    return given if given is not None and _ID.fullmatch(given) else ids.new()


def header(scope: Scope, name: bytes) -> str | None:
    """The first value of a request header, by its lower-case name."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


class Edge:
    """Puts `call`, `request_id` and `pipe` into the scope's state; nothing gets past it but a whole response."""

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, health: Health, finished: Finished, max_headers: int, traces: "Traces | None" = None
    ) -> None:
        self._app = app
        self._finished = finished
        self._traces = traces
        self._metrics = metrics
        self._health = health
        self._max_headers = max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        call = Call(id=request_id(header(scope, b"x-request-id")), protocol=protocol_of(scope["path"]))
        if self._traces is not None and scope["path"] not in PROBES:
            self._traces.begin(call, {name: value for name in TRACE_HEADERS if (value := header(scope, name.encode())) is not None})
        calls.begin(call)
        reply = _Reply(send, call.id, self._health, lambda status: self._trace(scope, call, status))
        scope.setdefault("state", {}).update(call=call, request_id=call.id, tenant="", pipe=pipe(send, reply))
        began = time.monotonic()
        try:
            if len(scope["headers"]) > self._max_headers:
                raise TooManyHeaders(f"the request has {len(scope['headers'])} headers; at most {self._max_headers} are read")
            await self._app(scope, receive, reply.send)
        except PilothouseError as error:
            if not reply.status:
                await refusal(scope["path"], error)(scope, receive, reply.send)
        except Exception as error:
            log.exception("request %s failed", call.id)
            if not reply.status:
                await refusal(scope["path"], error)(scope, receive, reply.send)
        finally:
            self._note(scope, call, reply.status, time.monotonic() - began)

    def _trace(self, scope: Scope, call: Call, status: int) -> str:
        """The trace that the caller may name later; "" where there is none."""
        if self._traces is None:
            return ""
        call.method = scope["method"]
        return self._traces.name(call, getattr(scope.get("route"), "path", "unknown"), status)

    def _note(self, scope: Scope, call: Call, status: int, seconds: float) -> None:
        """One line a request: never its content, never a key; and one count, where the engine was not asked and has counted itself."""
        route = getattr(scope.get("route"), "path", "")
        gone, broken = scope["state"].get("client_gone", False), scope["state"].get("stream_broken", False)
        if call.outcome == "none" and scope["method"] == "POST" and call.protocol != "other" and not route.startswith(_UNCOUNTED):
            self._metrics.outcome(call.protocol, "cancelled" if gone else "failed" if broken else outcome_of(status))
        call.method = scope["method"] if scope["method"] in _METHODS else "other"
        call.route, call.status, call.seconds = route or "unknown", CLIENT_GONE if gone else status, seconds
        self._finished(call, quiet=route in PROBES and status in (200, 503))


_UNCOUNTED = (REPOSITORY, feedback.PATH)  # routes that ask no model
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class TemplateRoute(Route):
    """A route that leaves itself in the scope, so that the log can name its template and not the client's path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self} if match is Match.FULL else found


class _Reply:
    """Watches a response go out, and adds the headers that every one has."""

    def __init__(self, send: Send, request_id: str, health: Health, trace: Callable[[int], str]) -> None:
        self._send = send
        self._id = request_id.encode("ascii")
        self._health = health
        self._trace = trace
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = self.dressed(message)
        await self._send(message)

    def dressed(self, start: Message) -> Message:
        """A response's start, with the headers that every one has."""
        headers = [*start.get("headers", ()), (b"x-request-id", self._id)]
        if trace := self._trace(start["status"]):
            headers.append((b"x-trace-id", trace.encode("ascii")))
        if self._health.leaving and (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        return {**start, "headers": headers}
