"""HTTP/1.1 connections with a clock: uvicorn waits for ever for the rest of a request's head, for a body that nobody reads, and for a
client that reads nothing. And with short ways for what a server of answers has most of: plain requests, and the heads and chunks of streams."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import h11
import orjson
from h11._headers import Headers
from starlette.types import Message, Send
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from pilothouse.server import plain

if TYPE_CHECKING:
    from pilothouse.server.turnstile import Turnstile

MAX_DROPPED_BYTES = 64 * 1024  # of a body that is refused by its head alone
SETTLE_SECONDS = 0.1

_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})

# What moves h11's state machine where its parser and its writer are not asked: of a message it looks at framing and `Connection` alone.
_ASKED = {
    closes: h11.Request(method="POST", target="/", headers=[("host", ""), ("connection", "close" if closes else "keep-alive")])
    for closes in (False, True)
}
_END = h11.EndOfMessage()
_STREAM = h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")])


class Connection(h11.Connection):
    """h11's, whose state machine is asked once a response and not once a chunk: chunks don't change its state.

    A response's head waits for what is sent after it, and is sent with that: two small writes cost twice what one does, here and at the client.
    `held` is called when something waits: `release` is to be written soon, if nothing follows.
    """

    def __init__(self, held: Callable[[], None] = lambda: None) -> None:
        super().__init__(h11.SERVER, plain.MOST_BYTES)
        self.watchers: set[Callable[[], None]] = set()
        """Called when the client is gone."""
        self._read: list[h11.Event] = []  # the last one first
        self._kept = False  # a plain request is being answered, and not the client's last one
        self._chunked = False
        self._held = held
        self._waiting = b""

    def accept(self, head: plain.Head, body: bytes) -> None:
        """Have `next_event` tell of a plain request, between two others, as if its head had been parsed here; `body` is what of it is there."""
        self._kept = not head.closes
        headers = Headers([(name, name, value) for name, value in head.headers])
        request = h11.Request(method=b"POST", target=head.path, headers=headers)
        if len(body) < head.body:
            self._process_event(h11.CLIENT, request)
            self._read = [request]
            if body:
                self.receive_data(body)
            return
        self._process_event(h11.CLIENT, _ASKED[head.closes])
        self._process_event(h11.CLIENT, _END)
        self._read = [_END, h11.Data(data=body), request] if body else [_END, request]

    def next_event(self) -> Any:
        return self._read.pop() if self._read else super().next_event()

    def start_next_cycle(self) -> None:
        self._kept = False
        super().start_next_cycle()

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        sent = super().send_with_data_passthrough(event)
        if type(event) is h11.Response:
            head = b"".join(sent or ())
            self._begun(head, chunked=b"\r\ntransfer-encoding: chunked\r\n" in head.lower())
            return []
        return [self.release(), *(sent or ())] if sent or type(event) is h11.EndOfMessage else sent

    def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """`send` a response's head. Headers that nobody has to judge (their names in lower case) are judged by nobody."""
        if not self._kept or status != 200 or any(name in _FRAMING for name, _ in headers):
            self.send(h11.Response(status_code=status, headers=headers, reason=_PHRASES[status]))
            return
        self._process_event(h11.SERVER, _STREAM)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        self._begun(b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n" % lines, chunked=True)

    def part(self, data: bytes) -> bytes:
        """What stands on the wire for a piece, not empty, of the body that is being sent."""
        if self._chunked and self.our_state is h11.SEND_BODY:
            return b"%b%x\r\n%b\r\n" % (self.release() if self._waiting else b"", len(data), data)
        return self.send(h11.Data(data=data)) or b""

    def hold(self, data: bytes) -> None:
        """Have such a piece wait for what follows."""
        self._hold(self.part(data))

    def release(self) -> bytes:
        """What waits; it is no longer this connection's to send."""
        waiting, self._waiting = self._waiting, b""
        return waiting

    def _begun(self, head: bytes, *, chunked: bool) -> None:
        self._chunked = chunked
        self._hold(head)

    def _hold(self, data: bytes) -> None:
        self._waiting += data
        self._held()


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
        cycle.response_started, cycle.waiting_for_100_continue = True, False
        self._reply.status = status = dressed["status"]
        self._conn.start(status, [*cycle.default_headers, *dressed["headers"]])
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


def timed(seconds: float, turnstile: "Turnstile | None" = None) -> type[H11Protocol]:
    """A protocol whose clients have `seconds` to send a request's head, the rest of a body after its response, and to read what waits.

    What `turnstile` refuses is answered here.
    """

    class TimedProtocol(H11Protocol):
        _clock: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None
        _unread = 0  # bytes of a refused body that are still to come
        _leaves = False  # when they have

        def __init__(self, *args: Any, **rest: Any) -> None:
            super().__init__(*args, **rest)
            self._ours = self.conn = Connection(self._held)

        def _held(self) -> None:
            self.loop.call_soon(self._release)

        def _release(self) -> None:
            if not self.transport.is_closing() and (waiting := self._ours.release()):
                self.transport.write(waiting)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
            super().connection_made(transport)
            self._wind()

        def data_received(self, data: bytes) -> None:
            if self._unread:
                data = self._skip(data)
            if data:
                asks = data.startswith(b"POST ") and self._between_requests()
                head = plain.read(data) if asks else None
                if not asks or turnstile is None or turnstile.passes() or not self._turned_away(turnstile, head, data):
                    self._let_in(head, data)
            self._wind()

        def _let_in(self, head: plain.Head | None, data: bytes) -> None:
            if head is not None and len(data) <= head.size + head.body:
                self._unset_keepalive_if_required()
                self._ours.accept(head, data[head.size :])
                self.handle_events()
            else:
                super().data_received(data)
            if turnstile is not None:
                turnstile.begins()

        def _turned_away(self, turnstile: "Turnstile", head: plain.Head | None, data: bytes) -> bool:
            """Whether the request that begins here was refused on the spot; the rest of its body is read and dropped."""
            if head is None or len(data) > head.size + head.body or head.body > MAX_DROPPED_BYTES:
                return False
            response = turnstile.refuse(head)
            if response is None:
                return False
            headers = [*self.server_state.default_headers, *response.raw_headers, *([(b"connection", b"close")] if head.closes else [])]
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            status = response.status_code
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, _PHRASES[status], lines, bytes(response.body)))
            self._unread, self._leaves = head.size + head.body - len(data), head.closes
            super().on_response_complete()
            if not self._unread:
                self._dropped()
            return True

        def _between_requests(self) -> bool:
            fresh = self.cycle is None or self.cycle.response_complete
            return fresh and self.conn.our_state is h11.IDLE and not self.conn.trailing_data[0] and not self.transport.is_closing()

        def _skip(self, data: bytes) -> bytes:
            """What follows a refused body: nothing, where the client said that it was the last one."""
            self._unread, rest = max(0, self._unread - len(data)), data[self._unread :]
            if not self._unread:
                self._dropped()
            return b"" if self._leaves else rest

        def _dropped(self) -> None:
            if self._leaves:
                self.transport.close()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wind()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for gone in list(self._ours.watchers):
                gone()
            self._stop()
            self._read()

        def pause_writing(self) -> None:
            super().pause_writing()
            # A close would wait for what was written to be read.
            self._reading = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._read()

        def _read(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _wind(self) -> None:
            """Start the clock where the client is to speak, leave it running there, stop it elsewhere."""
            resting = self.timeout_keep_alive_task is not None
            theirs, ours = self.conn.their_state, self.conn.our_state
            owed = (theirs is h11.IDLE and not resting) or (theirs is h11.SEND_BODY and ours is h11.DONE)
            if not owed or self.transport.is_closing():
                self._stop()
            elif self._clock is None:
                self._clock = self.loop.call_later(seconds, self._expire)

        def _stop(self) -> None:
            if self._clock is not None:
                self._clock.cancel()
                self._clock = None

        def _expire(self) -> None:
            """A loop that was kept busy runs its clocks before it reads its sockets: what has come meanwhile is read first."""
            self._clock = self.loop.call_later(SETTLE_SECONDS, self._end)

        def _end(self) -> None:
            self._clock = None
            if self.transport.is_closing():
                return
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                self._refuse(408, f"the request's head did not arrive within {seconds:g} s")
            else:
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._refuse(400, "this is not a valid HTTP/1.1 request")
            else:  # in the middle of a response there is nothing left to say
                self.transport.close()

        def _refuse(self, status: int, message: str) -> None:
            body = orjson.dumps({"error": message})
            headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            events: list[Any] = [h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

    return TimedProtocol
