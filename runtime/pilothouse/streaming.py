"""An answer as a stream of events. A server of ours has each event from the engine's step to the socket in one go, with no task between; any other
host asks for them one by one. What they say is written in one place.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from pilothouse.answering import Answerer, Pauses, RowTake
from pilothouse.errors import PilothouseError
from pilothouse.messages import ChatRequest, Chunk, Usage
from pilothouse.protocols import sse


class Pipe(Protocol):
    """What a server of ours has for a stream: its response's start and its pieces go at once, past all layers."""

    def begin(self, start: Message) -> bool:
        """Send the response's start; False, and nothing sent, where the client has not read what it has."""

    def write(self, data: bytes) -> bool:
        """Send a piece of a response that has begun; False where the client has not read what it has."""

    def end(self, data: bytes) -> None:
        """Send the last piece, with the response's end."""

    async def drain(self) -> None:
        """Wait until it reads on."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a protocol writes a stream down."""

    opening: bytes
    """The events before the first chunk's, sent with it."""
    chunk: Callable[[Chunk, int], bytes]
    """A chunk of prompt number so-and-so; b"" where it says nothing new."""
    closing: Callable[[list[list[Usage]]], bytes]
    """The events after all chunks, of every prompt's usages."""
    failing: Callable[[BaseException], bytes]
    """The event of an error after the first byte."""
    done: bytes = sse.DONE
    """What follows either."""


class Events:
    """The events of one stream: kept until somebody takes them, sent at once when there is a pipe."""

    def __init__(self, requests: tuple[ChatRequest, ...], spelling: Spelling, pipe: Pipe | None = None) -> None:
        self._spelling = spelling
        self._usages: list[list[Usage]] = [[] for _ in requests]
        self._open = sum(request.n for request in requests)  # choices that have not ended
        self._spoke = False
        self._kept: list[bytes] = []
        self.pipe = pipe
        self.begun = False
        """Whether the response has begun, on the pipe."""

    async def run(self, pour: Callable[[RowTake], Pauses]) -> Pauses:
        """Pour all of an answer; an error after the first byte becomes the last event."""
        try:
            async with aclosing(pour(self._take)) as pauses:
                async for _ in pauses:
                    yield
            self._end(self._spelling.closing(self._usages) + self._spelling.done)
        except PilothouseError as error:
            if not self._spoke:
                raise
            self._end(self._spelling.failing(error) + self._spelling.done)
        except Exception as error:
            if self._spoke:
                self._put(self._spelling.failing(error) + self._spelling.done)
                yield
            raise

    def taken(self) -> bytes:
        """What is kept; it is kept no more."""
        kept, self._kept = b"".join(self._kept), []
        return kept

    def _take(self, row: int, chunk: Chunk) -> bool:
        data = self._spelling.chunk(chunk, row)
        if not self._spoke:
            data, self._spoke = self._spelling.opening + data, True
        if chunk.usage is not None:
            self._usages[row].append(chunk.usage)
        if chunk.finish_reason is not None:
            self._open -= 1
            if not self._open:
                self._kept.append(data)  # the answer's end follows at once
                return True
        if self.begun and self.pipe is not None and data and not self._kept:  # most tokens
            return self.pipe.write(data)
        return self._put(data) if data else True

    def _put(self, data: bytes) -> bool:
        self._kept.append(data)
        return self.pipe is not None and self._begin(self.pipe) and self.pipe.write(self.taken())

    def _end(self, data: bytes) -> None:
        self._kept.append(data)
        if self.pipe is not None and self._begin(self.pipe) and (kept := self.taken()):
            self.pipe.end(kept)

    def _begin(self, pipe: Pipe) -> bool:
        """The response begins with the first thing that it says, in the moment it is said."""
        self.begun = self.begun or pipe.begin(START)
        return self.begun


async def streaming(request: Request, answerer: Answerer, requests: tuple[ChatRequest, ...], protocol: str, spelling: Spelling) -> Response:
    """The response to `request`, a stream. Until its first event is there, a refusal is still a plain error. On a server of ours most of it has
    been sent when this returns: that waits for the first pause."""
    pipe = getattr(request.state, "pipe", None)
    events = Events(requests, spelling, pipe)
    pauses = events.run(lambda take: answerer.pour(requests, take, protocol=protocol))
    paused = await anext(pauses, _ENDED) is not _ENDED
    return _Stream(events, pauses, paused)


class _Stream(StreamingResponse):
    """A server of ours cancels this call when the client goes; elsewhere Starlette sees to that."""

    def __init__(self, events: Events, pauses: Pauses, paused: bool) -> None:
        super().__init__(self._pulled(events, pauses), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
        self._events, self._pauses, self._paused = events, pauses, paused

    @staticmethod
    async def _pulled(events: Events, pauses: Pauses) -> AsyncIterator[bytes]:
        async with aclosing(pauses):
            yield events.taken()
            async for _ in pauses:
                yield events.taken()
            if last := events.taken():
                yield last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        events, pipe = self._events, self._events.pipe
        if pipe is None:
            await super().__call__(scope, receive, send)
            return
        async with aclosing(self._pauses) as pauses:
            if not events.begun:  # the client has yet to read the answer before this one
                await send(START)
                events.begun = True
            if self._paused:
                await self._drained(pipe)
            async for _ in pauses:
                await self._drained(pipe)
            if kept := events.taken():
                pipe.end(kept)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drained(self, pipe: Pipe) -> None:
        """Send what was kept when the pipe was full, and wait until there is room for more."""
        if kept := self._events.taken():
            pipe.write(kept)
        await pipe.drain()


_ENDED = object()
_HEAD = StreamingResponse(iter(()), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS).raw_headers
START: Message = {"type": "http.response.start", "status": 200, "headers": _HEAD}
"""Of every stream's response."""
