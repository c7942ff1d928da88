"""The request's body on its way in, and the client's going away.

Bodies are bounded while they are read: their size as sent and as inflated, and the time to send them. A handler that waits for its body
holds no place in the engine's queue. Once the body is in, the layer listens for the client hanging up and cancels the handler, so that a
unary request frees its row as a stream does.
"""

import asyncio
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pilothouse.errors import InvalidRequest, Overloaded, PayloadTooLarge, RequestTimeout, UnsupportedMedia
from pilothouse.server.edge import header
from pilothouse.server.pipe import Pipe

LINGER_SECONDS = 1.0  # how long the rest of a refused body is read, so that the client sees the answer and no reset
LINGER_BODIES = 4  # and how much of it, in largest bodies
PARTS_AT_ONCE = 16  # of a stream, before other work has its turn

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class Upload:
    """Wraps `receive` for everything inside; what it raises there is a `PilothouseError`."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_bodies_bytes: int, upload_seconds: float) -> None:
        self._app = app
        self._room = _Room(max_bodies_bytes)
        self._max_bytes = max_body_bytes
        self._seconds = upload_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, self._max_bytes, self._seconds, self._room)
        reply = _Reply(send, body)
        try:
            await self._app(scope, body.receive, reply.send)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not body.gone or task is None or task.uncancel() > 0:
                raise
            scope["state"]["client_gone"] = True
        finally:
            body.close()


class _Room:
    """Bytes that the bodies of all requests may hold together, from their arrival to their answer's end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def take(self, size: int) -> None:
        """Raises `Overloaded`, with nothing taken."""
        if size > self._left:
            raise Overloaded(f"requests of {self._most} bytes are being read and answered; send this one again later")
        self._left -= size

    def give_back(self, size: int) -> None:
        self._left += size


class _Body:
    """One request's `receive`: first the body, bounded, then the client's disconnect."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, seconds: float, room: _Room) -> None:
        self._room = room
        self._held = 0
        self._scope = scope
        self._receive = receive
        self._max = max_bytes
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._seconds = seconds
        self._sent = 0
        self._inflate: _Inflate | None = None
        self._begun = False
        self._task = asyncio.current_task()
        self._pipe: Pipe = scope["state"]["pipe"]
        self._unwatch: Callable[[], None] = lambda: None
        self._disconnected = asyncio.Event()
        self.complete = False  # the whole body was read
        self.refused = False  # the rest of the body is not wanted
        self.slow = False  # nor waited for
        self.answered = False  # the whole response is sent
        self.gone = False  # the client went away and the handler was cancelled for it

    async def receive(self) -> Message:
        """The next piece of the body, inflated; after the last one, the disconnect."""
        if self.complete:
            await self._disconnected.wait()
            return {"type": "http.disconnect"}
        if not self._begun:
            self._begin()
        message = await (self._receive() if self._pipe.arrived else self._in_time())
        if message["type"] != "http.request":
            self.gone = True
            raise asyncio.CancelledError
        data, more = message.get("body", b""), message.get("more_body", False)
        self._sent += len(data)
        if self._sent > self._max:
            raise self._too_large("")
        if not more:
            self.complete = True
            self._unwatch = self._pipe.watch(self._left)
        if self._inflate is not None:
            data = self._inflate.feed(data, last=not more)
        self._hold(len(data))
        return {"type": "http.request", "body": data, "more_body": more}

    async def _in_time(self) -> Message:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            self.refused = self.slow = True
            raise RequestTimeout(f"the body did not arrive within {self._seconds:g} s; send it faster or smaller") from None

    def _hold(self, size: int) -> None:
        try:
            self._room.take(size)
        except Overloaded:
            self.refused = not self.complete
            raise
        self._held += size

    def _begin(self) -> None:
        """Judge the headers that speak of the body."""
        self._begun = True
        length = header(self._scope, b"content-length")
        if length is not None and int(length) > self._max:  # digits only: the parser has seen to it
            raise self._too_large("")
        encoding = (header(self._scope, b"content-encoding") or "identity").strip().lower()
        if encoding in _WINDOW_BITS:
            self._inflate = _Inflate(_WINDOW_BITS[encoding], encoding, self._max, self._too_large)
            # What comes out of here is plain: nobody inside may inflate it again.
            self._scope["headers"] = [(k, v) for k, v in self._scope["headers"] if k not in (b"content-encoding", b"content-length")]
        elif encoding != "identity":
            raise UnsupportedMedia("this Content-Encoding is not read; send gzip, deflate or none", field="Content-Encoding")

    def _too_large(self, how: str) -> PayloadTooLarge:
        self.refused = True
        return PayloadTooLarge(f"the body is over {self._max} bytes{how}; send a smaller one")

    def _left(self) -> None:
        """The client has gone, which ends its handler."""
        self._disconnected.set()
        if not self.answered and self._task is not None:
            self.gone = True
            self._task.cancel()

    def end(self) -> None:
        """The whole response was sent: a host reports that as a disconnect, too."""
        self._disconnected.set()

    def close(self) -> None:
        self._room.give_back(self._held)
        self._unwatch()

    async def linger(self) -> None:
        """Read on and forget, within bounds, so that a client that is still sending gets to read its refusal."""
        left = LINGER_BODIES * self._max
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message: dict[str, Any] = dict(await self._receive())
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
                    left -= len(message.get("body", b""))

    @property
    def unwanted(self) -> bool:
        """Whether the client may be sending what will not be read: then the connection ends with the response."""
        if self.complete:
            return False
        length = header(self._scope, b"content-length")
        return self.refused or (length is not None and int(length) > self._max)


class _Inflate:
    """Inflates piece by piece and never makes more than the limit."""

    def __init__(self, bits: int, name: str, most: int, too_large: Any) -> None:
        self._stream = zlib.decompressobj(bits)
        self._name = name
        self._bits = bits
        self._left = most
        self._too_large = too_large
        self._first = True

    def feed(self, data: bytes, *, last: bool) -> bytes:
        try:
            out = self._decompress(data)
        except zlib.error:
            raise InvalidRequest(f"the body is not valid {self._name}", field="Content-Encoding") from None
        self._left -= len(out)
        if self._left < 0 or self._stream.unconsumed_tail:
            raise self._too_large(" inflated")
        if last and not self._stream.eof and not self._first:
            raise InvalidRequest(f"the body ends in the middle of its {self._name} stream", field="Content-Encoding")
        return out

    def _decompress(self, data: bytes) -> bytes:
        if not data:
            return b""
        most = self._left + 1
        if self._first and self._name == "deflate":
            # Some clients send "deflate" without zlib's header.
            self._first = False
            try:
                return self._stream.decompress(data, most)
            except zlib.error:
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS)
        self._first = False
        return self._stream.decompress(data, most)


class _Reply:
    """Ends the connection after a response that came before the end of the body, and keeps a stream from holding the event loop."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send = send
        self._body = body
        self._parts = 0

    async def send(self, message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start":
            if self._body.unwanted:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        elif last:
            if self._body.unwanted:
                await self._send({**message, "more_body": True})
                if not self._body.slow:
                    await self._body.linger()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            self._body.answered = True
        else:
            await self._give_way()
        await self._send(message)
        if last:
            self._body.end()

    async def _give_way(self) -> None:
        """The host never waits where its buffer has room, nor once the client is gone: a stream must let others run, and be cancelled."""
        self._parts += 1
        if self._parts % PARTS_AT_ONCE == 0:
            await asyncio.sleep(0)
