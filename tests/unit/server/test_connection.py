"""The short ways say what h11 says: of plain requests, and in the heads and chunks of streams."""

from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.server import plain
from pilothouse.server.connection import Connection

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


BODIES = st.tuples(st.binary(max_size=40), st.integers(0, 40))
HEAD_LINES = st.lists(
    st.tuples(st.sampled_from([b"X-A", b"accept", b"Content-Type"]), st.sampled_from([b"b", b"", b"text/plain, */*"])), max_size=3
)
ENDS = st.sampled_from([b"", b"Connection: close\r\n", b"connection: Keep-Alive\r\n"])


def heard(connection: h11.Connection) -> list[object]:
    """What a connection tells until it wants more."""
    events: list[object] = []
    while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
        assert isinstance(event, h11.Request | h11.Data | h11.EndOfMessage)
        told = (event.method, event.target, list(event.headers), event.http_version) if isinstance(event, h11.Request) else ()
        events.append((type(event), told, bytes(event.data) if isinstance(event, h11.Data) else b""))
    return events


@given(HEAD_LINES, ENDS, BODIES, st.booleans())
def test_an_accepted_request_is_told_of_as_h11_tells_of_it(
    lines: list[tuple[bytes, bytes]], end: bytes, body: tuple[bytes, int], answered: bool
) -> None:
    """The same events and the same states, wherever its body is cut, also where the answer comes before the rest; and after it the next one."""
    text, cut = body
    fields = b"".join(b"%b: %b\r\n" % line for line in lines) + end
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (fields, len(text))
    plainly = plain.read(head)
    assert plainly is not None
    ours, theirs = Connection(), h11.Connection(h11.SERVER)
    ours.accept(plainly, text[:cut])
    theirs.receive_data(head + text[:cut])
    assert heard(ours) == heard(theirs)
    assert ours.states == theirs.states

    if answered:
        begun(ours, theirs, [(b"x-a", b"b")])
    if text[cut:]:
        ours.receive_data(text[cut:])
        theirs.receive_data(text[cut:])
    assert heard(ours) == heard(theirs)
    if not answered:
        begun(ours, theirs, [(b"x-a", b"b")])
    assert ours.part(b"one") == theirs.send(h11.Data(data=b"one"))
    assert ours.send(h11.EndOfMessage()) == theirs.send(h11.EndOfMessage())
    assert ours.states == theirs.states

    if theirs.our_state is theirs.their_state is h11.DONE:
        ours.start_next_cycle()
        theirs.start_next_cycle()
        request, headers = REQUESTS["a known length"]
        assert said(ours, request, headers, [b"onetwo"]) == said(theirs, request, headers, [b"onetwo"])


def begun(ours: Connection, theirs: h11.Connection, headers: list[tuple[bytes, bytes]]) -> None:
    ours.start(200, headers)
    assert ours.release() == theirs.send(h11.Response(status_code=200, headers=headers, reason=b"OK"))
    assert ours.states == theirs.states


@pytest.mark.parametrize("kind", [*REQUESTS, "a last request"])
@pytest.mark.parametrize("headers", [[(b"x-a", b"b")], [(b"x-a", b"b"), (b"connection", b"close")]])
def test_a_head_is_the_head_that_h11_sends(kind: str, headers: list[tuple[bytes, bytes]]) -> None:
    """The same bytes, and afterwards a connection in the same state, whatever was asked and parsed."""
    request, more = {**REQUESTS, "a last request": (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", [])}[kind]
    ours, theirs = Connection(), h11.Connection(h11.SERVER)
    for connection in (ours, theirs):
        connection.receive_data(request)
        heard(connection)

    begun(ours, theirs, [*((name.encode(), value.encode()) for name, value in more), *headers])

    assert ours.send(h11.Data(data=b"")) == theirs.send(h11.Data(data=b""))


@pytest.mark.parametrize(("status", "headers"), [(200, [(b"content-length", b"3")]), (200, [(b"connection", b"close")]), (503, [])])
def test_a_head_that_says_more_is_h11s_to_write(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    """Another status, a length, a connection that is not kept: on an accepted request as on any."""
    head = plain.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert head is not None
    ours, theirs = Connection(), h11.Connection(h11.SERVER)
    ours.accept(head, b"")
    theirs.receive_data(REQUESTS["a stream"][0])
    assert heard(ours) == heard(theirs)

    ours.start(status, headers)

    reason = HTTPStatus(status).phrase.encode()
    assert ours.release() == theirs.send(h11.Response(status_code=status, headers=headers, reason=reason))
    assert ours.states == theirs.states


@pytest.mark.parametrize("value", [b"b\r\nx-b: c", b"b\nc", b"b\rc"])
def test_a_header_of_two_lines_is_not_written(value: bytes) -> None:
    """Wherever it came from: h11 refuses it, and nothing is sent."""
    head = plain.read(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert head is not None
    connection = Connection()
    connection.accept(head, b"")
    heard(connection)

    with pytest.raises(h11.LocalProtocolError):
        connection.start(200, [(b"x-a", value)])

    assert connection.release() == b""
