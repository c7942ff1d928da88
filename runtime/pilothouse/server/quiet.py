"""uvicorn with nothing of its own to say: no banner, no access log, no signals, no waking up, and TLS whose certificates change."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from pilothouse.server.http1 import timed
from pilothouse.server.tls import CLOSING_SECONDS, HANDSHAKE_SECONDS
from pilothouse.server.turnstile import Turnstile
from pilothouse.settings import Settings

SETTLE_SECONDS = 0.1


class QuietServer(uvicorn.Server):
    """Leaves the signals to us (uvicorn would catch each, and raise it again when it is done) and sleeps until it is told to stop."""

    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(config)
        self._tls = tls
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Take no new connections, close the resting ones, and end when the others have."""
        self.should_exit = True
        self._told.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, once the requests that have already arrived are read: it would close their connections as resting ones."""
        loop = asyncio.get_running_loop()
        for listening in [listening for server in self.servers for listening in server.sockets]:
            loop.remove_reader(listening.fileno())
        # asyncio forgets a connection that it has accepted and not yet handed over when its server closes: the client would hang.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        await asyncio.sleep(SETTLE_SECONDS)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, with TLS of our own: certificates that change, and an end to handshakes and goodbyes that never come."""
        if self._tls is None:
            await super().startup(sockets)
            return
        await self.lifespan.startup()

        def connection() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        loop = asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                connection,
                sock=listening,
                backlog=self.config.backlog,
                ssl=self._tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                ssl_shutdown_timeout=CLOSING_SECONDS,
            )
            for listening in sockets or ()
        ]
        self.started = True

    async def main_loop(self) -> None:
        # Its own would wake ten times a second; a tick of ten is what renews the Date header.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._told.wait()


def server(app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None = None, turnstile: Turnstile | None = None) -> QuietServer:
    """A server for `app` as the settings have its times; its connections refuse what `turnstile` does."""
    config = uvicorn.Config(
        app,
        interface="asgi3",
        http=timed(settings.upload_seconds, turnstile),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]  # seconds of a timer: a float does
    )
    return QuietServer(config, tls)
