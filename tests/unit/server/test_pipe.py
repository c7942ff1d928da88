"""A stream's start, its pieces and word of its client, past all layers."""

from types import SimpleNamespace
from typing import Any

import h11
from starlette.types import Message

from pilothouse.server import plain
from pilothouse.server.connection import Connection
from pilothouse.server.pipe import Pipe

REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


class Undressed:
    """A reply whose layers add one header."""

    def __init__(self) -> None:
        self.status = 0
        self.added = (b"x-id", b"1")

    def dressed(self, start: Message) -> Message:
        return {**start, "headers": [*start["headers"], self.added]}


class Kept:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def piped(reply: Undressed) -> tuple[Pipe, Kept, Any]:
    """A request that has come, the pipe of its answer, and what is written."""
    connection, transport = Connection(), Kept()
    head = plain.read(REQUEST)
    assert head is not None
    connection.accept(head, b"")
    assert type(connection.next_event()) is h11.Request
    cycle = SimpleNamespace(
        flow=SimpleNamespace(write_paused=False), transport=transport, scope={"method": "POST"}, default_headers=[(b"server", b"s")],
        response_started=False, waiting_for_100_continue=True, disconnected=False,
    )  # fmt: skip
    return Pipe(cycle, connection, reply), transport, cycle  # type: ignore[arg-type]  # what it touches of a cycle is here


START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
HEAD = b"HTTP/1.1 200 OK\r\nserver: s\r\na: b\r\nx-id: 1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_stream_begins_with_its_head_and_first_piece_in_one() -> None:
    """Until it begins nothing is sent, and the reply has no status."""
    reply = Undressed()
    pipe, transport, cycle = piped(reply)
    assert (transport.written, reply.status, cycle.response_started) == (b"", 0, False)

    assert pipe.begin(START)
    assert pipe.write(b"one")

    assert transport.written == HEAD + b"3\r\none\r\n"
    assert (reply.status, cycle.response_started, cycle.waiting_for_100_continue) == (200, True, False)


def test_a_server_that_is_leaving_says_so_in_the_heads_that_begin_from_then_on() -> None:
    """However the head is written."""
    reply = Undressed()
    pipe, transport, _ = piped(reply)
    reply.added = (b"connection", b"close")

    assert pipe.begin(START)
    assert pipe.write(b"one")

    assert transport.written == HEAD.replace(b"x-id: 1", b"connection: close") + b"3\r\none\r\n"


def test_a_client_that_does_not_read_has_no_response_begun() -> None:
    """Nothing is sent, and nothing is said to have been."""
    reply = Undressed()
    pipe, transport, cycle = piped(reply)
    cycle.flow.write_paused = True
    assert not pipe.begin(START)
    assert (transport.written, reply.status, cycle.response_started) == (b"", 0, False)
