"""From the engine's thread to the event loops: one wake-up per loop and step, whatever number of answers it carries.

The engine's side holds a `Mailbox`, the client's side a `Stream` on it. So a stream that is closed, cancelled or just forgotten tells the
engine, which alone never keeps it alive.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from pilothouse.engines.sampling import Sampled
from pilothouse.messages import Chunk, FinishReason

Write = Callable[[Sequence[Sampled], FinishReason | None], Sequence[Chunk]]
"""`Writer.write` of a row's answer."""


class Said(NamedTuple):
    """What a step gave a row, to be written by its reader: that is for the event loop, while the next step computes."""

    sampled: Sequence[Sampled]
    reason: FinishReason | None


Item = Said | Chunk | Exception

Take = Callable[[Chunk], bool]
"""Takes a chunk in the moment it is there, on the event loop: it must be quick. False: no more for now."""


class Mailbox:
    """What waits for one reader on one event loop; touched from that loop only."""

    __slots__ = ("_write", "failed", "items", "loop", "take", "waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Write) -> None:
        self.loop = loop
        self._write = write
        self.failed = False
        """Whether something could not be written, which the engine does not know."""
        self.items: deque[Chunk | Exception] = deque()
        self.take: Take | None = None  # of a reader who waits for all that comes, until it says no
        self.waiter: asyncio.Future[None] | None = None

    def deliver(self, item: Item) -> None:
        """To the reader where one waits, and else into the box."""
        if self.failed:
            return
        if not isinstance(item, Said):
            self._hand(item)
            return
        try:
            chunks = self._write(*item)
        except Exception as error:  # this reader's own, too
            self.failed = True
            self._hand(error)
        else:
            for chunk in chunks:
                self._hand(chunk)

    def _hand(self, item: Chunk | Exception) -> None:
        waiter = self.waiter
        if waiter is None or waiter.done():
            self.items.append(item)
        elif self.take is None or isinstance(item, Exception):
            self.items.append(item)
            waiter.set_result(None)
        else:
            try:
                if not self.take(item):
                    waiter.set_result(None)
            except Exception as error:  # this reader's own; the others of the step get what is theirs
                waiter.set_exception(error)

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Outbox:
    """What one step has for all readers."""

    def __init__(self) -> None:
        self._batches: dict[asyncio.AbstractEventLoop, list[tuple[Mailbox, Item]]] = {}

    def put(self, mailbox: Mailbox, item: Item) -> None:
        self._batches.setdefault(mailbox.loop, []).append((mailbox, item))

    def flush(self) -> None:
        """Send all of it, one call per event loop."""
        batches, self._batches = self._batches, {}
        for loop, batch in batches.items():
            try:
                loop.call_soon_threadsafe(_deliver, batch)
            except RuntimeError:  # the loop is closed: its streams are gone or will be, and that withdraws their rows
                continue


async def pour(chunks: AsyncGenerator[Chunk, None], take: Take) -> bool:
    """`Stream.pour` for the chunks of any engine."""
    if isinstance(chunks, Stream):
        return await chunks.pour(take)
    async for chunk in chunks:
        if not take(chunk):
            return False
    return True


def _deliver(batch: list[tuple[Mailbox, Item]]) -> None:
    for mailbox, item in batch:
        mailbox.deliver(item)


class Stream(AsyncGenerator[Chunk, None]):
    """The chunks of one job. Ends after the one with a finish reason; `cancel` is called once when it is left before that.

    `cancel` may be called by the garbage collector, on any thread: it must not take a lock.
    """

    def __init__(self, mailbox: Mailbox, cancel: Callable[[], None]) -> None:
        self._mailbox = mailbox
        self._cancel: Callable[[], None] | None = cancel

    async def __anext__(self) -> Chunk:
        mailbox = self._mailbox
        while not mailbox.items:
            if self._cancel is None:
                raise StopAsyncIteration
            await self._woken()
        item = mailbox.items.popleft()
        if isinstance(item, Chunk):
            if item.finish_reason is not None:
                self._cancel = None
            return item
        if mailbox.failed:
            self._leave()
        self._cancel = None
        try:
            raise item
        finally:
            del item  # else the error's traceback and this frame keep each other alive

    async def pour(self, take: Take) -> bool:
        """Hand every chunk to `take` in the moment it is delivered, with no task and no turn of the event loop between. False: `take` wants no
        more for now, and what comes waits for the next call; True: that was all. What `take` raises is raised here, and the row withdrawn."""
        mailbox, wanted = self._mailbox, True

        def taken(chunk: Chunk) -> bool:
            nonlocal wanted
            wanted = take(chunk)
            if chunk.finish_reason is not None:
                self._cancel = None
            return wanted and self._cancel is not None

        mailbox.take = taken
        try:
            while wanted and (mailbox.items or self._cancel is not None):
                if mailbox.items:
                    wanted = take(await anext(self))
                else:
                    await self._woken()
        finally:
            mailbox.take = None
        return wanted

    async def _woken(self) -> None:
        """Wait for what the mailbox has to say. Whoever is cancelled here has left."""
        mailbox = self._mailbox
        mailbox.waiter = mailbox.loop.create_future()
        try:
            await mailbox.waiter
        except BaseException:
            self._leave()
            raise
        finally:
            mailbox.waiter = None

    async def asend(self, value: None) -> Chunk:
        return await self.__anext__()

    async def athrow(
        self,
        kind: type[BaseException] | BaseException,
        value: object = None,
        traceback: TracebackType | None = None,
    ) -> Chunk:
        self._leave()
        raise kind

    async def aclose(self) -> None:
        """Leave; the row is free before the next step. Whoever waits for a chunk hears that there is none."""
        self._leave()
        self._mailbox.wake()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        cancel, self._cancel = self._cancel, None
        self._mailbox.items.clear()
        if cancel is not None:
            cancel()
