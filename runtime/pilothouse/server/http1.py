"""HTTP/1.1 connections with a clock: uvicorn waits for ever for the rest of a request's head, for a body that nobody reads, and for a
client that reads nothing."""

import asyncio
from typing import Any

import h11
import orjson
from uvicorn.protocols.http.h11_impl import H11Protocol


def timed(seconds: float) -> type[H11Protocol]:
    """A protocol whose clients have `seconds` to send a request's head, the rest of a body after its response, and to read what waits."""

    class TimedProtocol(H11Protocol):
        _clock: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
            super().connection_made(transport)
            self._wind()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wind()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wind()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
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
