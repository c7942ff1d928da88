"""From the engine's thread to a reader: one by one, or poured in the moment it comes."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from pilothouse.engines.mailbox import Mailbox, Said, Stream, pour
from pilothouse.engines.sampling import Sampled
from pilothouse.errors import EngineFailed
from pilothouse.messages import Chunk, FinishReason

LAST = Chunk("last", finish_reason=FinishReason.LENGTH)


class Reader:
    """Takes chunks until it has `room` no more."""

    def __init__(self, room: int = 1000) -> None:
        self.got: list[Chunk] = []
        self.room = room

    def take(self, chunk: Chunk) -> bool:
        self.got.append(chunk)
        self.room -= 1
        return self.room > 0


def write(sampled: Sequence[Sampled], reason: FinishReason | None) -> list[Chunk]:
    """A chunk for every token, which can't be 13."""
    if any(one.token == 13 for one in sampled):
        raise ValueError("13")
    last = len(sampled) - 1
    return [Chunk(str(one.token), finish_reason=reason if place == last else None) for place, one in enumerate(sampled)]


@pytest.fixture
async def mailbox() -> Mailbox:
    return Mailbox(asyncio.get_running_loop(), write)


@pytest.fixture
def left() -> list[str]:
    return []


@pytest.fixture
async def stream(mailbox: Mailbox, left: list[str]) -> AsyncGenerator[Stream, None]:
    made = Stream(mailbox, lambda: left.append("left"))
    yield made
    await made.aclose()


async def waiting(stream: Stream, reader: Reader) -> "asyncio.Task[bool]":
    """A reader that waits for what is delivered."""
    task = asyncio.create_task(stream.pour(reader.take))
    await asyncio.sleep(0)
    return task


async def test_a_poured_chunk_is_taken_where_it_is_delivered(mailbox: Mailbox, stream: Stream, left: list[str]) -> None:
    """No turn of the event loop lies between; what was there before comes first; the last one ends it, and nobody has left."""
    reader = Reader()
    mailbox.deliver(Chunk("a"))
    task = await waiting(stream, reader)

    mailbox.deliver(Chunk("b"))
    assert [chunk.text for chunk in reader.got] == ["a", "b"]
    mailbox.deliver(LAST)

    assert await task is True
    assert (reader.got[-1], left) == (LAST, [])


async def test_what_a_step_says_is_written_where_it_is_delivered(mailbox: Mailbox, stream: Stream, left: list[str]) -> None:
    """Its tokens become chunks there, in order, whether somebody waits for them or not."""
    reader = Reader()
    mailbox.deliver(Said([Sampled(1), Sampled(2)], None))
    task = await waiting(stream, reader)

    mailbox.deliver(Said([Sampled(3)], None))
    assert [chunk.text for chunk in reader.got] == ["1", "2", "3"]
    mailbox.deliver(Said([Sampled(4)], FinishReason.LENGTH))

    assert await task is True
    assert (reader.got[-1].text, left) == ("4", [])


@pytest.mark.parametrize("waits", [True, False])
async def test_what_can_t_be_written_ends_its_reader_and_withdraws_its_row(
    mailbox: Mailbox, stream: Stream, left: list[str], waits: bool
) -> None:
    """The engine, which knows nothing of it, is told that the reader has left."""
    reader = Reader()
    task = await waiting(stream, reader) if waits else None
    mailbox.deliver(Said([Sampled(13)], None))

    with pytest.raises(ValueError, match="13"):
        await (task or stream.pour(reader.take))
    assert left == ["left"]


async def test_a_reader_without_room_finds_the_rest_when_it_comes_back(mailbox: Mailbox, stream: Stream) -> None:
    """Nothing is taken while it is away, and nothing is lost."""
    reader = Reader(room=1)
    task = await waiting(stream, reader)
    for text in "ab":
        mailbox.deliver(Chunk(text))

    assert await task is False
    assert [chunk.text for chunk in reader.got] == ["a"]
    reader.room = 1000
    mailbox.deliver(LAST)
    assert await stream.pour(reader.take) is True
    assert [chunk.text for chunk in reader.got] == ["a", "b", "last"]


async def test_a_reader_that_fails_hears_of_it_and_withdraws_its_row(mailbox: Mailbox, stream: Stream, left: list[str]) -> None:
    """Its failure is its own: the step that delivers goes on with the other readers."""

    def take(chunk: Chunk) -> bool:
        raise ZeroDivisionError

    task = asyncio.create_task(stream.pour(take))
    await asyncio.sleep(0)

    mailbox.deliver(Chunk("a"))

    with pytest.raises(ZeroDivisionError):
        await task
    assert left == ["left"]


async def test_an_engines_error_ends_a_poured_stream(mailbox: Mailbox, stream: Stream, left: list[str]) -> None:
    """It comes after what was answered, and there is no row to withdraw."""
    reader = Reader()
    task = await waiting(stream, reader)
    mailbox.deliver(Chunk("a"))
    mailbox.deliver(EngineFailed())

    with pytest.raises(EngineFailed):
        await task
    assert (len(reader.got), left) == (1, [])


async def test_a_reader_that_is_cancelled_has_left(mailbox: Mailbox, stream: Stream, left: list[str]) -> None:
    """The row is withdrawn, and what was on its way goes nowhere."""
    reader = Reader()
    task = await waiting(stream, reader)

    task.cancel()
    mailbox.deliver(Chunk("late"))

    with pytest.raises(asyncio.CancelledError):
        await task
    assert (reader.got, left) == ([], ["left"])


async def test_any_engines_chunks_can_be_poured() -> None:
    """Also those of one that has no mailbox."""

    async def chunks() -> AsyncGenerator[Chunk, None]:
        yield Chunk("a")
        yield LAST

    reader, said = Reader(room=1), chunks()

    assert await pour(said, reader.take) is False
    reader.room = 1000
    assert await pour(said, reader.take) is True
    assert [chunk.text for chunk in reader.got] == ["a", "last"]
