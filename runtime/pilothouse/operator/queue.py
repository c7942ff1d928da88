"""Which LanguageModels are to be reconciled, and when: each at most once at a time, the earliest wish wins, and failures wait longer each time."""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable

from pilothouse.operator.spec import Key

FIRST, MOST = 1.0, 60.0  # seconds between tries of what fails


class Queue:
    """For one event loop. `get` and `done` enclose the work on a key; a wish that comes meanwhile is kept until then."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._number = 0
        self._working: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._due)

    @property
    def overdue(self) -> int:
        """Keys whose time has come and that nobody works on."""
        now = self._clock()
        return sum(due <= now and key not in self._working for key, due in self._due.items())

    def add(self, key: Key, after: float = 0.0) -> None:
        """Wish that the key be reconciled in `after` seconds, or earlier if that was wished already."""
        due = self._clock() + after
        if due >= self._due.get(key, float("inf")):
            return
        self._due[key] = due
        self._number += 1
        heapq.heappush(self._heap, (due, self._number, key))
        self._changed.set()

    async def get(self) -> Key:
        """The next key whose time has come."""
        while True:
            self._changed.clear()
            key, wait = self._next()
            if key is not None:
                return key
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)

    def done(self, key: Key, again: float | None, *, failed: bool = False) -> None:
        """The work on the key has ended; it wants to be asked again after `again` seconds, or failed and waits for longer each time."""
        self._working.discard(key)
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            again = min(MOST, FIRST * 2 ** (count - 1)) * random.uniform(0.8, 1.2)
        else:
            self._failures.pop(key, None)
        if again is not None:
            self.add(key, again)
        self._changed.set()

    def _next(self) -> tuple[Key | None, float | None]:
        now, held = self._clock(), []
        found: Key | None = None
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) != due:
                heapq.heappop(self._heap)  # wished earlier since, or done
            elif key in self._working:
                held.append(heapq.heappop(self._heap))
            elif due <= now:
                heapq.heappop(self._heap)
                del self._due[key]
                self._working.add(key)
                found = key
                break
            else:
                break
        for entry in held:
            heapq.heappush(self._heap, entry)
        # What is being worked on wakes us by `done`.
        waits = [due - now for due, _, key in self._heap if key not in self._working and self._due.get(key) == due]
        return found, min(waits, default=None) if found is None else None
