"""A stream's events: when each goes out, and what an error becomes."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

import pytest

from pilothouse.answering import Pauses, RowTake
from pilothouse.errors import EngineFailed
from pilothouse.messages import ChatRequest, Chunk, FinishReason, Usage
from pilothouse.protocols import sse
from pilothouse.streaming import Events, Spelling

SPELLING = Spelling(
    opening=b"open ",
    chunk=lambda row, chunk: chunk.text.encode(),
    closing=lambda usages: b"used %d " % sum(usage.completion_tokens for row in usages for usage in row),
    failing=lambda error: type(error).__name__.encode() + b" ",
)
LAST = Chunk("last ", finish_reason=FinishReason.STOP, usage=Usage(1, 3))


class Wire:
    """A pipe that keeps what it is given; "full" while `full`."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.ended: list[bytes] = []
        self.full = False

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


async def run(pauses: AsyncGenerator[None, None]) -> None:
    async for _ in pauses:
        pass


async def test_events_wait_for_their_pipe_and_the_last_go_with_the_end() -> None:
    """The first one stands still until there is a way out; then each goes at once, and the last chunk's with what closes the stream."""
    events, wire = Events((ChatRequest(),), SPELLING), Wire()
    pauses = events.run(saying(Chunk("a "), Chunk("b "), LAST))

    await anext(pauses)
    events.connect(wire)
    await run(pauses)

    assert wire.written == [b"open a ", b"b "]
    assert wire.ended == [b"last used 3 " + sse.DONE]


async def test_only_the_last_choices_end_waits() -> None:
    """One that ends before the others is told at once: they may go on for long."""
    events, wire = Events((ChatRequest(n=2),), SPELLING), Wire()
    events.connect(wire)

    await run(events.run(saying(LAST, Chunk("a ", index=1), LAST)))

    assert wire.written == [b"open last ", b"a "]
    assert wire.ended == [b"last used 6 " + sse.DONE]


async def test_a_full_pipe_makes_the_stream_stand_still() -> None:
    """Until it is asked on."""
    events, wire = Events((ChatRequest(),), SPELLING), Wire()
    events.connect(wire)
    wire.full = True
    pauses = events.run(saying(Chunk("a "), Chunk("b "), LAST))

    await anext(pauses)
    assert wire.written == [b"open a "]
    await wire.drain()
    await run(pauses)

    assert wire.written == [b"open a ", b"b "]


async def test_an_end_that_says_nothing_is_no_piece() -> None:
    """An empty piece would end the response on the wire."""
    events, wire = Events((ChatRequest(),), replace(SPELLING, closing=lambda usages: b"", done=b"")), Wire()
    events.connect(wire)

    await run(events.run(saying(Chunk("a "), Chunk(finish_reason=FinishReason.STOP))))

    assert (wire.written, wire.ended) == ([b"open a "], [])


async def test_an_error_before_the_first_event_is_raised() -> None:
    """There is a status for it."""
    with pytest.raises(EngineFailed):
        await run(Events((ChatRequest(),), SPELLING).run(saying(EngineFailed())))


async def test_an_error_after_the_first_event_is_the_last_event() -> None:
    """Also one that is not ours, which the server's log has to hear of."""
    for error, raised in ((EngineFailed(), False), (ZeroDivisionError(), True)):
        events, wire = Events((ChatRequest(),), SPELLING), Wire()
        events.connect(wire)
        pauses = events.run(saying(Chunk("a "), error))
        if raised:
            with pytest.raises(ZeroDivisionError):
                await run(pauses)
        else:
            await run(pauses)
        assert b"".join([*wire.written, *wire.ended]) == b"open a " + SPELLING.failing(error) + sse.DONE
