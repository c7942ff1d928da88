"""Who may come in: the queue's bound, counted where jobs enter and leave, so that it holds whatever happens in between."""

import threading
from collections.abc import Callable, Sized
from typing import Protocol

from pilothouse.engines.plan import Limits
from pilothouse.errors import InvalidRequest, NotReady, Overloaded


class Rows(Protocol):
    """What the door asks of whoever gives rows to jobs."""

    @property
    def limits(self) -> Limits: ...
    @property
    def running(self) -> Sized: ...
    @property
    def blocked(self) -> bool: ...


class Door:
    """Shut until `open`. Callers come from any thread; jobs leave on the engine's. Nothing is computed while the lock is held."""

    def __init__(self, queue: int) -> None:
        """`queue`: most jobs that may wait."""
        self._queue = queue
        self._lock = threading.Lock()
        self._entered = 0
        self._left = 0
        self.is_open = False
        self.stopping = False

    @property
    def inside(self) -> int:
        """Jobs that wait or run."""
        return self._entered - self._left

    def open(self) -> None:
        """Let jobs in, unless the server stops."""
        with self._lock:
            self.is_open = not self.stopping

    def shut(self, *, stopping: bool = False) -> None:
        """Let nobody in; `stopping`: for good. Whoever was let in before has been put into the queue."""
        with self._lock:
            self.is_open = False
            self.stopping = self.stopping or stopping

    def enter(self, rows: Rows | None, put: Callable[[], None]) -> None:
        """Count a job in and `put` it into the queue, or raise what `check` raises."""
        with self._lock:
            self.check(1, rows)
            self._entered += 1
            put()

    def leave(self) -> None:
        self._left += 1

    def check(self, jobs: int, rows: Rows | None) -> None:
        """Raise unless there is room for `jobs` more: `NotReady`, `Overloaded`, or `InvalidRequest` where there never is."""
        if not self.is_open or rows is None:
            raise self.refusal()
        most = rows.limits.rows + self._queue
        if jobs > most:
            raise InvalidRequest(f"{jobs} answers at once are more than the {most} this server has places for; ask for fewer", field="n")
        places = len(rows.running) if rows.blocked else rows.limits.rows  # without memory a free row is none
        if self.inside + jobs > places + self._queue:
            raise Overloaded(
                f"the queue is full ({self._queue} may wait); try again later", retry_after=1.0 + self.inside // max(1, places)
            )

    def refusal(self) -> NotReady:
        """What those hear who can't be served."""
        if self.stopping:
            return NotReady("the server is stopping; send the request again, another one answers")
        return NotReady("the engine is not running; try again later")
