"""How a handler's answer becomes an HTTP response: JSON, a stream of events, or an error in the protocol's own shape."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pilothouse.errors import PilothouseError, Retryable, wire
from pilothouse.messages import Chunk, Usage
from pilothouse.protocols import sse

Handler = Callable[..., Awaitable[Response]]
Spelling = Callable[[BaseException], dict[str, Any]]


def spoken(spell: Spelling) -> Callable[[Handler], Handler]:
    """Put the errors of ours that a handler raises into its protocol's shape. Foreign ones go on to the server's own handler."""

    def around(handler: Handler) -> Handler:
        @wraps(handler)
        async def guarded(self: Any, request: Request) -> Response:
            try:
                return await handler(self, request)
            except PilothouseError as error:
                return refusal(error, spell)

        return guarded

    return around


def refusal(error: PilothouseError, spell: Spelling) -> Response:
    """An error as a whole answer, with Retry-After where a retry helps."""
    headers = error.headers if isinstance(error, Retryable) else None
    return json(spell(error), wire(error).status, headers)


def json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type="application/json", headers=headers)


async def streaming(events: AsyncGenerator[bytes, None]) -> Response:
    """The stream's answer, once its first event is there: until then a refusal is still a plain error."""
    return _Stream(await anext(events), events)


class _Stream(StreamingResponse):
    """Events as they come. A server of ours says how to send them the short way, and cancels this call when the client goes; elsewhere
    Starlette sees to both."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(self._all(first, events), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
        self._first, self._events = first, events

    @staticmethod
    async def _all(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
        async with aclosing(events):
            yield first
            async for event in events:
                yield event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        part = scope.get("state", {}).get("part")
        if part is None:
            await super().__call__(scope, receive, send)
            return
        # In a task of its own: every token wakes it up through all that await it, and around this call lie two dozen layers.
        await asyncio.create_task(self._pour(send, part))

    async def _pour(self, send: Send, part: Callable[[bytes], Awaitable[None]]) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await part(self._first)
            async for event in events:
                await part(event)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def spelled(
    chunks: AsyncGenerator[tuple[int, Chunk], None],
    opening: bytes,
    spell: Callable[[int, Chunk], bytes],
    closing: Callable[[list[list[Usage]]], bytes],
    failing: Callable[[BaseException], bytes],
    rows: int,
    done: bytes = sse.DONE,
) -> AsyncGenerator[bytes, None]:
    """Chunks as events, the opening ones with the first of them; an error after the first byte becomes the last event, but for `done`."""
    usages: list[list[Usage]] = [[] for _ in range(rows)]
    begun = False
    try:
        async with aclosing(chunks):
            async for row, chunk in chunks:
                if chunk.usage is not None:
                    usages[row].append(chunk.usage)
                data = spell(row, chunk)
                if not begun:
                    data, begun = opening + data, True
                if data:
                    yield data
        yield closing(usages) + done
    except Exception as error:
        if not begun:
            raise
        yield failing(error) + done
        if not isinstance(error, PilothouseError):
            raise
