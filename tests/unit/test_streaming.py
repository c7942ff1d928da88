"""A stream's events: when each goes out, and what an error becomes."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import cast

import pytest
from starlette.requests import Request
from starlette.types import Message

from pilothouse.answering import Answerer, Pauses, RowTake
from pilothouse.errors import EngineFailed
from pilothouse.messages import ChatRequest, Chunk, FinishReason, Usage
from pilothouse.protocols import sse
from pilothouse.streaming import START, Events, Spelling, streaming

SPELLING = Spelling(
    opening=b"open ",
    chunk=lambda chunk, _: chunk.text.encode(),
    closing=lambda usages: b"used %d " % sum(usage.completion_tokens for row in usages for usage in row),
    failing=lambda error: type(error).__name__.encode() + b" ",
)
LAST = Chunk("last ", finish_reason=FinishReason.STOP, usage=Usage(1, 3))
ITEMS = (Chunk("a "), Chunk("b "), LAST)


class Wire:
    """A pipe that keeps what it is given; "full" while `full`."""

    def __init__(self) -> None:
        self.starts: list[Message] = []
        self.written: list[bytes] = []
        self.ended: list[bytes] = []
        self.full = False

    def rehearse(self, start: Message) -> None: ...

    def begin(self, start: Message) -> bool:
        if not self.full:
            self.starts.append(start)
        return not self.full

    def write(self, data: bytes) -> bool:
        self.written.append(data)
        return not self.full

    def end(self, data: bytes) -> None:
        self.ended.append(data)

    async def drain(self) -> None:
        self.full = False


def saying(*items: Chunk | Exception) -> Callable[[RowTake], Pauses]:
    """An answer that says `items` at once, and stands still where nobody wants more."""

    async def pour(take: RowTake) -> Pauses:
        for item in items:
            if isinstance(item, Exception):
                raise item
            if not take(0, item):
                yield

    return pour


class Saying:
    """An `Answerer` of one answer."""

    def __init__(self, *items: Chunk | Exception) -> None:
        self._pour = saying(*items)

    def pour(self, requests: tuple[ChatRequest, ...], take: RowTake, *, protocol: str) -> Pauses:
        return self._pour(take)


def answering(*items: Chunk | Exception) -> Answerer:
    return cast(Answerer, Saying(*items))


def request(wire: Wire) -> Request:
    """One that came over `wire`."""
    return Request({"type": "http", "state": {"pipe": wire}})


async def unheard() -> Message:
    raise AssertionError("nobody listens to the client here")


async def run(pauses: AsyncGenerator[None, None]) -> None:
    async for _ in pauses:
        pass


async def test_events_are_kept_where_there_is_no_pipe() -> None:
    """The stream stands still at each, until it is taken."""
    events = Events((ChatRequest(),), SPELLING)
    told = [events.taken() async for _ in events.run(saying(*ITEMS))]

    assert told == [b"open a ", b"b "]
    assert events.taken() == b"last used 3 " + sse.DONE


async def test_a_response_begins_with_its_first_event_and_ends_with_its_last() -> None:
    """Not before: until then a refusal is a plain error. The last chunk goes with what closes the stream."""
    wire = Wire()
    events = Events((ChatRequest(),), SPELLING, wire)
    begun = []

    def pour(take: RowTake) -> Pauses:
        return saying(*ITEMS)(lambda row, chunk: (begun.append(events.begun), take(row, chunk))[1])

    await run(events.run(pour))

    assert begun == [False, True, True]
    assert wire.starts == [START]
    assert wire.written == [b"open a ", b"b "]
    assert wire.ended == [b"last used 3 " + sse.DONE]


async def test_a_client_that_has_yet_to_read_has_its_stream_begin_later() -> None:
    """Through the layers, which wait for it; what came meanwhile is sent after the start, in its order."""
    wire = Wire()
    wire.full = True
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append({**message, "written": list(wire.written)})
        wire.full = False

    response = await streaming(request(wire), answering(*ITEMS), (ChatRequest(),), "openai_chat_stream", SPELLING)
    await response({"type": "http"}, unheard, send)

    assert sent[0] == {**START, "written": []}
    assert wire.starts == []
    assert wire.written == [b"open a ", b"b "]
    assert wire.ended == [b"last used 3 " + sse.DONE]
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


async def test_a_stream_that_nobody_had_to_wait_for_is_over_when_its_response_is_there() -> None:
    """All but the response's end has gone by the short way."""
    wire, sent = Wire(), list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    response = await streaming(request(wire), answering(*ITEMS), (ChatRequest(),), "openai_chat_stream", SPELLING)
    assert (wire.starts, wire.written, wire.ended) == ([START], [b"open a ", b"b "], [b"last used 3 " + sse.DONE])
    await response({"type": "http"}, unheard, send)

    assert sent == [{"type": "http.response.body", "body": b"", "more_body": False}]


async def test_only_the_last_choices_end_waits() -> None:
    """One that ends before the others is told at once: they may go on for long."""
    wire = Wire()
    events = Events((ChatRequest(n=2),), SPELLING, wire)

    await run(events.run(saying(LAST, Chunk("a ", index=1), LAST)))

    assert wire.written == [b"open last ", b"a "]
    assert wire.ended == [b"last used 6 " + sse.DONE]


async def test_a_full_pipe_makes_the_stream_stand_still() -> None:
    """Until it is asked on."""
    wire = Wire()
    events = Events((ChatRequest(),), SPELLING, wire)

    async def pour(take: RowTake) -> Pauses:
        wire.begin(START)
        wire.full, events.begun = True, True
        async for _ in saying(*ITEMS)(take):
            yield

    pauses = events.run(pour)
    await anext(pauses)
    assert wire.written == [b"open a "]
    await wire.drain()
    await run(pauses)

    assert wire.written == [b"open a ", b"b "]


async def test_an_end_that_says_nothing_is_no_piece() -> None:
    """An empty piece would end the response on the wire."""
    wire = Wire()
    events = Events((ChatRequest(),), replace(SPELLING, closing=lambda usages: b"", done=b""), wire)

    await run(events.run(saying(Chunk("a "), Chunk(finish_reason=FinishReason.STOP))))

    assert (wire.written, wire.ended) == ([b"open a "], [])


async def test_an_error_before_the_first_event_is_raised() -> None:
    """There is a status for it."""
    with pytest.raises(EngineFailed):
        await run(Events((ChatRequest(),), SPELLING).run(saying(EngineFailed())))


async def test_an_error_after_the_first_event_is_the_last_event() -> None:
    """Also one that is not ours, which the server's log has to hear of."""
    for error, raised in ((EngineFailed(), False), (ZeroDivisionError(), True)):
        wire = Wire()
        events = Events((ChatRequest(),), SPELLING, wire)
        pauses = events.run(saying(Chunk("a "), error))
        if raised:
            with pytest.raises(ZeroDivisionError):
                await run(pauses)
        else:
            await run(pauses)
        assert b"".join([*wire.written, *wire.ended]) == b"open a " + SPELLING.failing(error) + sse.DONE
