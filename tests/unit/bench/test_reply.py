"""A response is read the same however its bytes are cut."""

import pytest
from client.reply import Reply

PIECES = (b'data: {"a":1}\n\n', b'data: {"b":2}\r\n\r\n: ', b"still\n\ndata: c\n", b"\n", b"")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = HEAD + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in PIECES)


def fed(data: bytes, size: int) -> tuple[Reply, list[bytes]]:
    reply, events = Reply(), []
    for at in range(0, len(data), size):
        events += list(reply.feed(data[at : at + size]))
    return reply, events


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_events_come_whole_however_they_are_cut(size: int) -> None:
    """Chunks may end anywhere, lines may end both ways, comments are no events."""
    reply, events = fed(STREAM, size)
    assert events == [b'{"a":1}', b'{"b":2}', b"c"]
    assert (reply.status, reply.over, reply.kept) == (200, True, True)


@pytest.mark.parametrize("size", [1, 1000])
def test_a_body_of_known_length_ends_with_its_last_byte(size: int) -> None:
    """The connection can be used again at once."""
    reply, events = fed(b'HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\n{"a"', size)
    assert (reply.status, reply.body, reply.over, events) == (429, b'{"a"', True, [])


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    """And the connection is not used again."""
    reply, _ = fed(b"HTTP/1.1 200 OK\r\n\r\nwhole", 5)
    assert not reply.over
    reply.end()
    assert (reply.body, reply.over, reply.kept) == (b"whole", True, False)


@pytest.mark.parametrize("data", [b"", STREAM[:90], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"])
def test_a_connection_that_ends_early_is_an_error(data: bytes) -> None:
    """A cut answer is not taken for a whole one."""
    reply, _ = fed(data, 1000)
    with pytest.raises(ConnectionError, match="hung up"):
        reply.end()


def test_what_is_no_http_is_an_error() -> None:
    """Another protocol on that port is named, not waited for."""
    with pytest.raises(ValueError, match="no HTTP"):
        fed(b"SSH-2.0-OpenSSH\r\n\r\n", 100)
