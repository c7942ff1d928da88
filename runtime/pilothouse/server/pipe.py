"""The short way of a stream, past all layers, between what answers and its connection."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from starlette.types import Message, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

from pilothouse.server.connection import Connection


class Reply(Protocol):
    """A response as it passes the layers."""

    status: int
    """0 until it begins."""

    def dressed(self, start: Message) -> Message:
        """Its start, with the headers that every response has."""


class Pipe:
    """The short way between a connection and what answers on it: uvicorn's `send` for a stream's start and its pieces, without a message that every
    layer looks at, and without waiting; and word of the client, without a task that waits for it. The response's end goes through `send`."""

    __slots__ = ("_conn", "_cycle", "_flow", "_headless", "_reply", "_transport")

    def __init__(self, cycle: RequestResponseCycle, conn: Connection, reply: Reply) -> None:
        self._cycle, self._conn, self._reply = cycle, conn, reply
        self._flow, self._transport = cycle.flow, cycle.transport
        self._headless = cycle.scope["method"] == "HEAD"

    @property
    def arrived(self) -> bool:
        """Whether `receive` has the whole body, or what is left of it, and does not wait."""
        return not self._cycle.more_body and self._cycle.message_event.is_set()

    def watch(self, gone: Callable[[], None]) -> Callable[[], None]:
        """Have `gone` called when the client goes; the answer takes that back."""
        self._flow.resume_reading()  # a body that came in one large piece stopped it, and nobody would see the client go
        self._conn.watchers.add(gone)
        return lambda: self._conn.watchers.discard(gone)

    def begin(self, start: Message) -> bool:
        """Send the response's start. False where the client has not read what it has: nothing was sent, and `send` would wait for it."""
        cycle = self._cycle
        if cycle.disconnected:
            self._reply.status = start["status"]
            return True
        if self._flow.write_paused:
            return False
        dressed = self._reply.dressed(start)
        self._conn.start(dressed["status"], [*cycle.default_headers, *dressed["headers"]])
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        self._reply.status = dressed["status"]
        return True

    def write(self, data: bytes) -> bool:
        """Send a piece, not empty. False where the client has not read what it has: `drain` before the next one."""
        if not self._cycle.disconnected and not self._headless:
            self._transport.write(self._conn.part(data))
            return not self._flow.write_paused
        return True

    def end(self, data: bytes) -> None:
        """Send the last piece, not empty, together with the response's end."""
        if not self._cycle.disconnected and not self._headless:
            self._conn.hold(data)

    async def drain(self) -> None:
        """Wait until the client reads on, or is gone; others have their turn in any case."""
        if self._flow.write_paused and not self._cycle.disconnected:
            await self._flow.drain()
        else:
            await asyncio.sleep(0)


def pipe(send: Send, reply: Reply) -> Pipe:
    """The short way beside `send`, which is a connection's of ours."""
    cycle = getattr(send, "__self__", None)
    assert isinstance(cycle, RequestResponseCycle)
    assert isinstance(cycle.conn, Connection)
    return Pipe(cycle, cycle.conn, reply)
