"""The metrics port: `/metrics`, behind a bearer token where one is set, and nothing else.

But where REST wants clients' certificates, which a kubelet has none of, the two health paths are answered here too.
"""

import hmac
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pilothouse.errors import NotFound, PilothouseError, StartError, Unauthenticated
from pilothouse.metrics import Metrics
from pilothouse.server.edge import header
from pilothouse.server.health import Health
from pilothouse.server.quiet import server
from pilothouse.server.refusals import WrongMethod, refusal
from pilothouse.server.tls import Tls
from pilothouse.settings import Settings

log = logging.getLogger("pilothouse.server")


class MetricsServer:
    """Serves one `Metrics`. The token's file is read at each scrape, so that it may change."""

    def __init__(self, metrics: Metrics, settings: Settings, health: Health, tls: Tls | None = None) -> None:
        self._metrics = metrics
        probes = {"/v2/health/live": health.stalled, "/v2/health/ready": health.unready}
        self._probes: dict[str, Callable[[], str | None]] = probes if settings.tls_client_ca is not None else {}
        self._token_file = settings.metrics_token_file
        if self._token_file is not None and not _token(self._token_file):
            raise StartError(
                f"{self._token_file} (setting metrics_token_file) is empty; write the token into it, or leave the setting empty"
            )
        self._server = server(self._answer, settings, tls.context(clients=False) if tls is not None else None)

    async def serve(self, listening: socket.socket) -> None:
        await self._server.serve(sockets=[listening])

    def stop(self) -> None:
        self._server.stop()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            if scope["path"] in self._probes and scope["method"] in ("GET", "HEAD"):
                reason = self._probes[scope["path"]]()
                await Response(status_code=503 if reason else 200, content=reason or "")(scope, receive, send)
                return
            self._judge(scope)
            response = Response(self._metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})
        except Exception as error:
            if not isinstance(error, PilothouseError):
                log.exception("a scrape failed")
            response = refusal(scope["path"], error)
        await response(scope, receive, send)

    def _judge(self, scope: Scope) -> None:
        if self._token_file is not None:
            scheme, _, given = (header(scope, b"authorization") or "").partition(" ")
            known = _token(self._token_file)
            if scheme.lower() != "bearer" or not known or not hmac.compare_digest(given.strip().encode("latin-1"), known):
                raise Unauthenticated("the metrics token is missing or wrong; send it as Authorization: Bearer <token>")
        if scope["path"] != "/metrics":
            raise NotFound("only /metrics is here")
        if scope["method"] not in ("GET", "HEAD"):
            raise WrongMethod({"GET", "HEAD"})


def _token(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise StartError(f"can't read {path} (setting metrics_token_file): {error.strerror}") from None
