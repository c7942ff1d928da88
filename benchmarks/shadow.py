"""The bare loop as the shadow of the served one: the very same steps on the same engine and thread, some of each in turn.

What serving costs a step is far less than what a machine's speed differs by from one half minute to the next, and a bare loop that gets its requests
at the same *times* takes other steps. So the shadow gets each request before the same step, in rows of its own, with a prompt as long of other words,
and follows the served loop at a distance of `TURN` steps: then it catches up, while the served one stands. Left out of the sums is the
first step of each turn: for the shadow, whose code and memory are cold, and for the served loop, whose last answers have been sent meanwhile; and
that of a request which found nobody there: how long it took to come is its client's, and until its first token is measured elsewhere.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pilothouse.engines.base import Job
from pilothouse.engines.bench import Bench
from pilothouse.engines.driver import Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.ledger import Ledger
from pilothouse.engines.plan import Limits, Share
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.waiting import Waiting

FIRST_WORD, LAST_WORD = 300, 2000  # ids between are whole words in every model used here
TURN = 10  # steps
DRAINED = 0.02  # seconds after which the last step's answers have been sent and read, and nobody runs beside the shadow


class Clock:
    """Sums steps and their seconds, each from the end of the one before, and those of the computing in them; not of a first one."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.computing = 0, 0.0, 0.0
        self._ended: float | None = None

    def step(self, began: float, ended: float) -> None:
        if self._ended is not None:
            self.steps += 1
            self.seconds += ended - self._ended
            self.computing += ended - began
        self._ended = ended

    def rest(self) -> None:
        """The next step is a first one."""
        self._ended = None


class Shadow:
    """Follows the engine's own loop from `begin` to `end`. All but these two is called on the engine's thread."""

    def __init__(self, served: Stepping, bench: Bench, limits: Limits) -> None:
        """`bench` is the shadow's own, on the same engine."""
        self._bench, self._limits = bench, limits
        self._leader, waiting = served._ledger, served._ledger.waiting
        self._add, waiting.add = waiting.add, self._come  # type: ignore[method-assign]
        self._compute, served._bench.compute = served._bench.compute, self._served_step  # type: ignore[method-assign]
        self._ledger: Ledger | None = None

    def begin(self, rows: int) -> None:
        """Follow from now on, while nobody is running or waiting; the served loop uses the engine's first `rows` rows at most."""
        self._waiting = Waiting()
        self._came = deque[tuple[int, Job]]()
        self._ahead, self._behind = 0, 0  # steps of the served loop, and of the shadow
        self._firsts = set[int]()  # steps before which nobody was there
        self._served, self._bare = Clock(), Clock()
        self._whole = dict[str, Any]()  # of full turns
        self._ledger = ledger = Ledger(self._bench, self._waiting, self._limits)
        ledger._free = ledger._free[rows : 2 * rows]
        if len(ledger._free) < rows:
            raise ValueError(f"rows: a shadow needs {2 * rows} of them, and the engine has {self._limits.rows}")

    def end(self) -> dict[str, Any]:
        """Once everybody has been answered: how many steps both took in full turns, their seconds in each loop, and those of the computing in them."""
        ledger = self._ledger
        assert ledger is not None
        told = self._whole
        self._catch_up()
        self._ledger = None
        if ledger.running or len(self._waiting) or self._came:
            raise RuntimeError(f"the shadow is left with {ledger!r} after as many steps as were served")
        return told

    def _come(self, entry: Entry) -> None:
        if self._ledger is not None:
            if not self._leader.running and not len(self._leader.waiting):
                self._firsts.add(self._ahead)
            job = entry.job
            words = tuple(_other(token) for token in job.prompt)
            self._came.append((self._ahead, replace(job, id=f"{job.id}'s shadow", prompt=words)))
        self._add(entry)

    def _served_step(self, shares: Sequence[Share]) -> list[list[Sampled]]:
        if self._ledger is None:
            return self._compute(shares)
        if any(share.stages is not None for share in shares):
            raise ValueError("words: a piece of a long prompt would rest in the engine while the other loop computes")
        if self._ahead - self._behind == TURN:
            time.sleep(DRAINED)
            self._catch_up()
            self._whole = {
                "steps": self._served.steps,
                "served": self._served.seconds,
                "bare": self._bare.seconds,
                "served_computing": self._served.computing,
                "bare_computing": self._bare.computing,
            }
        if self._ahead in self._firsts:
            self._served.rest()
        began = time.perf_counter()
        answers = self._compute(shares)
        self._served.step(began, time.perf_counter())
        self._ahead += 1
        return answers

    def _catch_up(self) -> None:
        """Plan, compute and account, as the engine's loop does, without text, queues and readers."""
        ledger = self._ledger
        assert ledger is not None
        while self._behind < self._ahead:
            while self._came and self._came[0][0] == self._behind:
                self._waiting.add(Entry(self._came.popleft()[1], time.perf_counter()))
            if self._behind in self._firsts:
                self._bare.rest()
            plan = ledger.plan(time.perf_counter())
            began = time.perf_counter()
            answers = self._bench.compute(plan.shares)
            self._bare.step(began, time.perf_counter())
            ledger.account(plan, [[sampled.token for sampled in answer] for answer in answers])
            self._behind += 1
        self._served.rest()
        self._bare.rest()


def _other(token: int) -> int:
    """Another word for a word; what is none stays."""
    if not FIRST_WORD <= token < LAST_WORD:
        return token
    return FIRST_WORD + (token - FIRST_WORD + (LAST_WORD - FIRST_WORD) // 2) % (LAST_WORD - FIRST_WORD)
