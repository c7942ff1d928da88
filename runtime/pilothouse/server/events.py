"""A stream of server-sent events that keeps three promises: refusals come before the first byte with a status of their own, what breaks
later is a last event, and the stream behind it is closed the moment the client is gone."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from pilothouse.errors import PilothouseError
from pilothouse.protocols import sse
from pilothouse.server.pipe import Pipe
from pilothouse.server.upload import PARTS_AT_ONCE

log = logging.getLogger("pilothouse.server")

T = TypeVar("T")


class EventStream:
    """An ASGI response. Make it with `begin`."""

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None], failed: Callable[[BaseException], bytes]) -> None:
        self._first = first
        self._rest = rest
        self._failed = failed

    @classmethod
    async def begin(cls, items: AsyncIterator[T], write: Callable[[T], bytes], failed: Callable[[BaseException], bytes]) -> "EventStream":
        """Wait for the first of `items` (what it raises is raised here) and stream all of them, each as JSON written by `write`."""
        events = _events(items, write)
        try:
            return cls(await anext(events, b""), events, failed)
        except BaseException:
            await events.aclose()
            raise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # In a task of its own: every item wakes it up through all that await it, and around this call lie two dozen layers.
        await asyncio.create_task(self._pour(scope, send))

    async def _pour(self, scope: Scope, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        headers += [(name.lower().encode(), value.encode()) for name, value in sse.HEADERS.items()]
        part = _parts(scope["state"]["pipe"])
        async with aclosing(self._rest) as rest:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            if self._first:
                await part(self._first)
            try:
                async for event in rest:
                    await part(event)
            except Exception as error:
                scope["state"]["stream_broken"] = True
                if not isinstance(error, PilothouseError):
                    log.exception("a stream failed")
                await part(sse.event(self._failed(error)))
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _parts(pipe: Pipe) -> Callable[[bytes], Awaitable[None]]:
    """Pieces by the short way. An iterator that always has one more would hold the event loop, and never hear that its client is gone."""
    parts = count(1)

    async def part(data: bytes) -> None:
        if not pipe.write(data) or next(parts) % PARTS_AT_ONCE == 0:
            await pipe.drain()

    return part


async def _events(items: AsyncIterator[T], write: Callable[[T], bytes]) -> AsyncGenerator[bytes, None]:
    async with aclosing(items) as open_items:  # type: ignore[type-var]  # runtimes stream from async generators
        async for item in open_items:
            yield sse.event(write(item))
