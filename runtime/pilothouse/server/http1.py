"""HTTP/1.1 with a clock: uvicorn waits for ever for the rest of a request's head, for a body that nobody reads, and for a client that reads
nothing."""

import asyncio
from typing import TYPE_CHECKING, Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol

from pilothouse.server import plain
from pilothouse.server.connection import PHRASES, Connection

if TYPE_CHECKING:
    from pilothouse.server.turnstile import Turnstile

MAX_DROPPED_BYTES = 64 * 1024  # of a body that is refused by its head alone
SETTLE_SECONDS = 0.1


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
            self.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, PHRASES[status], lines, bytes(response.body)))
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
