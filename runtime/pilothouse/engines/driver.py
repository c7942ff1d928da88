"""Between the loop and an engine: what a step is made of, and which tokens it gave.

`Stepping` drives the engines that answer logits, with our ledger and our sampler; `relay.Relay` those that schedule and draw by themselves.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from pilothouse.engines.base import Guidance, StepEngine
from pilothouse.engines.bench import Bench
from pilothouse.engines.entry import Entry
from pilothouse.engines.ledger import Ledger
from pilothouse.engines.plan import Limits, Outcome, Plan
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.waiting import Waiting

Answers = list[tuple[Outcome, Sequence[Sampled]]]


class Driver(Protocol):
    """One engine's life. Every call comes from its thread; other threads only read `limits`, `running` and `blocked`."""

    @property
    def limits(self) -> Limits: ...

    @property
    def running(self) -> dict[int, Entry]:
        """The entries that have a row."""

    @property
    def blocked(self) -> bool:
        """Nobody is admitted until a row ends."""

    def answer_once(self, now: float) -> None:
        """Warm the engine up and see that it answers. Raises what goes wrong."""

    def plan(self, now: float) -> Plan:
        """Decide the next step."""

    def step(self, plan: Plan) -> Answers:
        """Compute it; what each row got. Rows that end, or fail alone, are withdrawn. Raises when the engine is broken."""

    def withdraw(self, entry: Entry) -> bool:
        """Take `entry` out, wherever it is. False when it is gone already."""

    def abandon(self) -> None:
        """The engine is broken, and the rows with it."""

    def usage(self) -> float:
        """Share of the KV memory in use, 0..1."""

    def close(self) -> None:
        """Free the engine."""


class Stepping:
    """A `StepEngine` under our ledger."""

    def __init__(
        self,
        engine: StepEngine,
        vocabulary: int,
        guidance: Guidance | None,
        waiting: Waiting,
        limits: Limits,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self.limits = limits
        self._bench = Bench(engine, vocabulary, guidance, on_failure)
        self._ledger = Ledger(self._bench, waiting, limits)
        self.plan, self.withdraw, self.abandon = self._ledger.plan, self._ledger.withdraw, self._ledger.abandon
        self.usage, self.close = engine.usage, self._bench.close

    def __repr__(self) -> str:
        return repr(self._ledger)

    @property
    def running(self) -> dict[int, Entry]:
        return self._ledger.running

    @property
    def blocked(self) -> bool:
        return self._ledger.blocked

    def answer_once(self, now: float) -> None:
        self._bench.answer_once(self.limits, now)

    def step(self, plan: Plan) -> Answers:
        answers = self._bench.compute(plan.shares)
        outcomes = self._ledger.account(plan, [[sampled.token for sampled in answer] for answer in answers])
        return list(zip(outcomes, answers, strict=True))
