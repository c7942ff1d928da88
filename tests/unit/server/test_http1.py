"""A plain request is answered as any other is, however its bytes come, and h11's parser is not asked for it."""

import asyncio
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import h11
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from pilothouse.server import plain
from pilothouse.server.http1 import timed

PLAIN = b"POST /v1/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX-A:  b \r\n\r\nabc"
LAST = PLAIN.replace(b"X-A:  b ", b"Connection: close")
CHUNKED = b"POST /v1/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
GET = b"GET /v1/c HTTP/1.1\r\nHost: x\r\n\r\n"
EMPTY = b"POST /v1/d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
BROKEN = b"POST /v1/e HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 3\r\n\r\nabc"


class Wire(asyncio.Transport):
    """A client's end that keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__({"peername": ("c", 1), "sockname": ("s", 2)})
        self.sent, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


async def told(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that answers what it was asked."""
    request = Request(scope, receive)
    body = (await request.body()).decode()
    asked = [request.method, scope["path"], scope["raw_path"].decode(), sorted(request.headers.items()), body]
    await JSONResponse(asked)(scope, receive, send)


async def answers(pieces: list[bytes]) -> tuple[bytes, bool]:
    """What a client gets that sends `pieces`, and waits for what is owed before each; and whether its connection is closed then."""
    config = uvicorn.Config(told, http=timed(60.0), ws="none", lifespan="off", log_config=None, date_header=False)
    config.load()
    state, wire = ServerState(), Wire()
    protocol = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]  # as uvicorn calls it
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
        for _ in range(20):  # turns of the loop: more than any answer takes
            await asyncio.sleep(0)
    sent = wire.sent, wire.closed
    protocol.connection_lost(None)
    await asyncio.gather(*state.tasks, return_exceptions=True)
    return sent


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.sampled_from([PLAIN, PLAIN, EMPTY, CHUNKED, GET, BROKEN, LAST]), min_size=1, max_size=4),
    st.lists(st.integers(0, 400), max_size=5),
)
def test_requests_are_answered_as_if_all_of_them_were_parsed(requests: list[bytes], cuts: list[int]) -> None:
    """Plain ones and others after each other, in one piece, cut anywhere, or two and a half at once: the same bytes, and the same end."""
    stream = b"".join(requests)
    bounds = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = [stream[begin:end] for begin, end in pairwise(bounds)]

    ours = asyncio.run(answers(pieces))
    with patch.object(plain, "read", return_value=None):
        theirs = asyncio.run(answers(pieces))

    assert ours == theirs
    assert ours[0].startswith(b"HTTP/1.1 ")


def test_a_plain_request_is_not_parsed_twice() -> None:
    """Its head is read once; what is not plain is h11's."""
    with patch.object(h11.Connection, "receive_data", autospec=True) as parsed:
        sent, _ = asyncio.run(answers([PLAIN, EMPTY]))

    assert (sent.count(b"HTTP/1.1 200 OK"), parsed.call_count) == (2, 0)
