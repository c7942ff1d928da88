"""An answer as a stream of events. A server of ours has each event from the engine's step to the socket in one go, with no task between; any other
host asks for them one by one. What they say is written in one place.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pilothouse.answering import Answerer, Pauses, RowTake
from pilothouse.errors import PilothouseError
from pilothouse.messages import ChatRequest, Chunk, Usage
from pilothouse.protocols import sse


class Pipe(Protocol):
    """What a server of ours has for the pieces of a stream whose response has begun."""

    def write(self, data: bytes) -> bool:
        """Send a piece at once; False where the client has not read what it has."""

    def end(self, data: bytes) -> None:
        """Send the last piece, with the response's end."""

    async def drain(self) -> None:
        """Wait until it reads on."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a protocol writes a stream down."""

    opening: bytes
    """The events before the first chunk's, sent with it."""
    chunk: Callable[[int, Chunk], bytes]
    """A chunk of prompt number so-and-so; b"" where it says nothing new."""
    closing: Callable[[list[list[Usage]]], bytes]
    """The events after all chunks, of every prompt's usages."""
    failing: Callable[[BaseException], bytes]
    """The event of an error after the first byte."""
    done: bytes = sse.DONE
    """What follows either."""


class Events:
    """The events of one stream: kept until somebody takes them, sent at once when there is a pipe."""

    def __init__(self, requests: tuple[ChatRequest, ...], spelling: Spelling) -> None:
        self._spelling = spelling
        self._usages: list[list[Usage]] = [[] for _ in requests]
        self._open = sum(request.n for request in requests)  # choices that have not ended
        self._begun = False
        self._kept: list[bytes] = []
        self._pipe: Pipe | None = None

    async def run(self, pour: Callable[[RowTake], Pauses]) -> Pauses:
        """Pour all of an answer; an error after the first byte becomes the last event."""
        try:
            async with aclosing(pour(self._take)) as pauses:
                async for _ in pauses:
                    yield
            self._end(self._spelling.closing(self._usages) + self._spelling.done)
        except PilothouseError as error:
            if not self._begun:
                raise
            self._end(self._spelling.failing(error) + self._spelling.done)
        except Exception as error:
            if self._begun:
                self._put(self._spelling.failing(error) + self._spelling.done)
                yield
            raise

    def taken(self) -> bytes:
        """What is kept; it is kept no more."""
        kept, self._kept = b"".join(self._kept), []
        return kept

    def connect(self, pipe: Pipe) -> None:
        """From here on, events go to `pipe`: first those that are kept."""
        self._pipe = pipe
        if self._kept:
            pipe.write(self.taken())

    def _take(self, row: int, chunk: Chunk) -> bool:
        data = self._spelling.chunk(row, chunk)
        if not self._begun:
            data, self._begun = self._spelling.opening + data, True
        if chunk.usage is not None:
            self._usages[row].append(chunk.usage)
        if chunk.finish_reason is not None:
            self._open -= 1
            if not self._open:
                self._kept.append(data)  # the answer's end follows at once
                return True
        return self._put(data) if data else True

    def _put(self, data: bytes) -> bool:
        self._kept.append(data)
        if self._pipe is None:
            return False
        return self._pipe.write(self.taken())

    def _end(self, data: bytes) -> None:
        self._kept.append(data)
        if self._pipe is not None and (kept := self.taken()):
            self._pipe.end(kept)


async def streaming(answerer: Answerer, requests: tuple[ChatRequest, ...], protocol: str, spelling: Spelling) -> Response:
    """The stream's response, once its first event is there: until then a refusal is still a plain error."""
    events = Events(requests, spelling)
    pauses = events.run(lambda take: answerer.pour(requests, take, protocol=protocol))
    await anext(pauses, None)
    return _Stream(events, pauses)


class _Stream(StreamingResponse):
    """A server of ours cancels this call when the client goes; elsewhere Starlette sees to that."""

    def __init__(self, events: Events, pauses: Pauses) -> None:
        super().__init__(self._pulled(events, pauses), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
        self._events, self._pauses = events, pauses

    @staticmethod
    async def _pulled(events: Events, pauses: Pauses) -> AsyncIterator[bytes]:
        async with aclosing(pauses):
            yield events.taken()
            async for _ in pauses:
                yield events.taken()
            if last := events.taken():
                yield last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pipe: Pipe | None = scope.get("state", {}).get("pipe")
        if pipe is None:
            await super().__call__(scope, receive, send)
            return
        async with aclosing(self._pauses) as pauses:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._events.connect(pipe)
            async for _ in pauses:
                await pipe.drain()
            await send({"type": "http.response.body", "body": b"", "more_body": False})
