"""Who may come in: the queue's bounds, counted where jobs enter and leave, so that they hold whatever happens in between.

The queue is bounded by jobs and by prompt tokens (its third bound, time, is the ledger's). A named tenant may hold three times as many places
as are free: one that sends without end leaves room for others, who hear of no full queue because of it.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sized
from typing import Protocol

from pilothouse.engines.entry import Entry
from pilothouse.engines.plan import Limits
from pilothouse.errors import InvalidRequest, NotReady, Overloaded

SHARE = 3  # places a tenant may hold for each one that is free: three quarters of the queue for one alone, 27 and 27 of 64 for two


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

    def __init__(self, queue: int, tokens: int = 0) -> None:
        """`queue`: most jobs that may wait; `tokens`: most prompt tokens of theirs, 0: any number. A single job may always wait."""
        self._queue = queue
        self._tokens = tokens
        self._lock = threading.Lock()
        self._waiting: set[Entry] = set()
        self._waiting_tokens = 0
        self._of_tenant: Counter[str] = Counter()
        self.inside = 0  # jobs that wait or run
        self.is_open = False
        self.stopping = False

    def open(self) -> None:
        """Let jobs in, unless the server stops."""
        with self._lock:
            self.is_open = not self.stopping

    def shut(self, *, stopping: bool = False) -> None:
        """Let nobody in; `stopping`: for good. Whoever was let in before has been put into the queue."""
        with self._lock:
            self.is_open = False
            self.stopping = self.stopping or stopping

    def enter(self, entry: Entry, rows: Rows | None, put: Callable[[], None]) -> None:
        """Count a job in and `put` it into the queue, or raise what `check` raises."""
        with self._lock:
            self.check(1, rows, entry.job.tenant, len(entry.job.prompt))
            self.inside += 1
            self._waiting.add(entry)
            self._waiting_tokens += len(entry.job.prompt)
            self._of_tenant[entry.job.tenant] += 1
            put()

    def begin(self, entry: Entry) -> None:
        """It has a row."""
        with self._lock:
            self._wait_no_more(entry)

    def leave(self, entry: Entry) -> None:
        with self._lock:
            self._wait_no_more(entry)
            self.inside -= 1

    def _wait_no_more(self, entry: Entry) -> None:
        if entry not in self._waiting:
            return
        self._waiting.remove(entry)
        self._waiting_tokens -= len(entry.job.prompt)
        self._of_tenant[entry.job.tenant] -= 1
        if not self._of_tenant[entry.job.tenant]:
            del self._of_tenant[entry.job.tenant]

    def check(self, jobs: int, rows: Rows | None, tenant: str = "", tokens: int = 0, ahead: int = 0) -> None:
        """Raise unless there is room for `jobs` more of `tenant`, with `tokens` of prompt, behind `ahead` that are about to enter: `NotReady`,
        `Overloaded`, or `InvalidRequest` where there never is."""
        if not self.is_open or rows is None:
            raise self.refusal()
        most = rows.limits.rows + self._queue
        if jobs > most:
            raise InvalidRequest(f"{jobs} answers at once are more than the {most} this server has places for; ask for fewer", field="n")
        own = len(rows.running) if rows.blocked else rows.limits.rows  # without memory a free row is none
        places = own + self._queue - self.inside - ahead - jobs
        if places >= self._queue:
            return  # nobody has to wait
        after = 1.0 + self.inside // max(1, own)
        if places < 0:
            raise Overloaded(f"the queue is full ({self._queue} may wait); try again later", retry_after=after)
        if self._tokens and self._waiting_tokens and self._waiting_tokens + max(tokens, 1) > self._tokens:
            raise Overloaded(f"the queue is full ({self._tokens} prompt tokens may wait); try again later", retry_after=after)
        if tenant and self._of_tenant[tenant] + jobs > max(1, SHARE * places):
            raise Overloaded("this API key has its share of the queue; the rest is for others: try again later", retry_after=after)

    def refusal(self) -> NotReady:
        """What those hear who can't be served."""
        if self.stopping:
            return NotReady("the server is stopping; send the request again, another one answers")
        return NotReady("the engine is not running; try again later")
