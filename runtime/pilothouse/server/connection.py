"""What stands on the wire of an HTTP/1.1 connection: h11's, with short ways for what a server of answers has most of, plain requests and the
heads and chunks of streams."""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import h11
from h11._headers import Headers  # h11's own: what a Request takes as it is, not judged a second time

from pilothouse.server import plain

PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
_FRAMING = frozenset({b"connection", b"content-length", b"transfer-encoding"})

# What moves h11's state machine where its parser and its writer are not asked: of a message it looks at framing and `Connection` alone.
_ASKED = {
    closes: h11.Request(method="POST", target="/", headers=[("host", ""), ("connection", "close" if closes else "keep-alive")])
    for closes in (False, True)
}
_END = h11.EndOfMessage()
_STREAM = h11.Response(status_code=200, headers=[("transfer-encoding", "chunked")])


class _Headers(Headers):
    """h11's, whose iterator makes a call for each."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return iter([(name, value) for _, name, value in self._full_items])


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
        headers = _Headers([(name, name, value) for name, value in head.headers])
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
        """`send` a response's head. Headers that nobody has to judge (their names in lower case) are judged by nobody, but that each is one line."""
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        whole = lines.count(b"\r") == lines.count(b"\n") == len(headers)
        if not self._kept or status != 200 or not whole or not _FRAMING.isdisjoint([name for name, _ in headers]):
            self.send(h11.Response(status_code=status, headers=headers, reason=PHRASES[status]))
            return
        self._process_event(h11.SERVER, _STREAM)
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
