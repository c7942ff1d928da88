"""The short way for chunks writes what h11 writes, and only where h11 would write chunks."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.server.http1 import Connection

REQUESTS = {
    "a stream": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", []),
    "a known length": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", [("content-length", "6")]),
    "an old client": (b"GET / HTTP/1.0\r\n\r\n", []),
    "a head request": (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", []),
}


def said(connection: h11.Connection, request: bytes, headers: list[tuple[str, str]], parts: list[bytes]) -> bytes:
    connection.receive_data(request)
    while type(connection.next_event()) is h11.Request:
        pass
    head = connection.send(h11.Response(status_code=200, headers=headers))
    return b"".join(piece or b"" for piece in [head, *[piece(connection, part) for part in parts], connection.send(h11.EndOfMessage())])


def piece(connection: h11.Connection, part: bytes) -> bytes | None:
    return connection.part(part) if isinstance(connection, Connection) and part else connection.send(h11.Data(data=part))


@pytest.mark.parametrize("kind", REQUESTS)
def test_every_response_is_written_as_h11_writes_it(kind: str) -> None:
    """Chunked, of a known length, to HTTP/1.0 and to HEAD: the same bytes, twice on a connection that is kept."""
    request, headers = REQUESTS[kind]
    parts = [] if kind == "a head request" else [b"one", b"", b"two"]
    ours, theirs = Connection(), h11.Connection(h11.SERVER)
    assert said(ours, request, headers, parts) == said(theirs, request, headers, parts)
    if theirs.our_state is h11.DONE:
        for connection in (ours, theirs):
            connection.start_next_cycle()
        more = [] if kind == "a head request" else [b"three", b"!"]
        assert said(ours, request, [("content-length", "6")], more) == said(theirs, request, [("content-length", "6")], more)


@given(st.lists(st.binary(max_size=70)))
def test_chunks_are_h11s_chunks(parts: list[bytes]) -> None:
    """Whatever the parts of a stream are."""
    request, headers = REQUESTS["a stream"]
    assert said(Connection(), request, headers, parts) == said(h11.Connection(h11.SERVER), request, headers, parts)


def test_a_chunk_out_of_turn_is_refused() -> None:
    """Data before a response's head is h11's to refuse."""
    with pytest.raises(h11.LocalProtocolError):
        Connection().part(b"early")


def test_a_head_goes_with_what_follows_it() -> None:
    """One write for both; and where nothing follows, whoever was told that it waits has it."""
    told: list[str] = []
    connection = Connection(lambda: told.append("waits"))
    request, headers = REQUESTS["a stream"]
    connection.receive_data(request)
    assert type(connection.next_event()) is h11.Request

    assert (connection.send(h11.Response(status_code=200, headers=headers)), told) == (b"", ["waits"])
    first = connection.part(b"one")

    assert first.startswith(b"HTTP/1.1 200 ")
    assert first.endswith(b"\r\n\r\n3\r\none\r\n")
    assert (connection.release(), connection.part(b"two")) == (b"", b"3\r\ntwo\r\n")


def test_a_last_piece_goes_with_the_end() -> None:
    """What is held is not lost where nothing follows: it can be released, and is then sent once."""
    connection = Connection()
    connection.receive_data(REQUESTS["a stream"][0])
    assert type(connection.next_event()) is h11.Request
    connection.send(h11.Response(status_code=200, headers=[]))
    connection.release()

    connection.hold(b"last")

    assert connection.send(h11.Data(data=b"")) == b""
    assert connection.send(h11.EndOfMessage()) == b"4\r\nlast\r\n0\r\n\r\n"
