"""Drives an engine that schedules and draws by itself: who comes next, whose time is over and which token ends a row stay ours."""

from heapq import heapify, heappop, heappush

from pilothouse.engines.base import Drawn, Job, TokenEngine
from pilothouse.engines.driver import Answers
from pilothouse.engines.entry import NOWHERE, Entry
from pilothouse.engines.late import late
from pilothouse.engines.plan import Limits, Outcome, Plan, Share
from pilothouse.engines.sampling import Sampled
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import EngineFailed, PilothouseError
from pilothouse.messages import FinishReason, Sampling


class Relay:
    """A `Driver` of a `TokenEngine`. `waiting` outlives it."""

    blocked = False  # memory is the engine's own affair: what it can't place now it keeps

    def __init__(self, engine: TokenEngine, waiting: Waiting, limits: Limits) -> None:
        self.limits = limits
        self.running: dict[int, Entry] = {}
        self._engine = engine
        self._waiting = waiting
        self._free = list(range(limits.rows))
        heapify(self._free)
        self._ages = 0
        self.usage, self.close = engine.usage, engine.close

    def __repr__(self) -> str:
        return f"<Relay: {len(self.running)} of {self.limits.rows} rows, {self._waiting!r}>"

    def answer_once(self, now: float) -> None:
        """Warm up, and answer two tokens the way every answer goes."""
        self._engine.warm_up()
        self._engine.begin(0, Job("first", (0, 1, 2, 3)[: self.limits.context - 2], Sampling(temperature=0.0), max_tokens=2))
        ended = None
        try:
            while ended is None:
                ended = next((drawn.ended for drawn in self._engine.run()), None)
        finally:
            self._engine.withdraw(0)
        if isinstance(ended, PilothouseError):
            raise ended

    def plan(self, now: float) -> Plan:
        """End who is late, and open rows while the engine computes them with the others."""
        plan = Plan(ended=late(self._waiting, self.running.values(), self.limits, now))
        for entry, _ in plan.ended:
            self.withdraw(entry)
        while self._free and self._engine.room() and self._waiting.first():
            entry = self._waiting.pop()  # whatever breaks, this one is not tried again on the next engine
            row = self._free[0]
            try:
                self._engine.begin(row, entry.job)
            except PilothouseError as error:
                plan.ended.append((entry, error))
                continue
            heappop(self._free)
            entry.row, entry.age, self._ages = row, self._ages, self._ages + 1
            self.running[row] = entry
            plan.admitted.append(entry)
        plan.shares = [Share(entry, entry.left) for entry in self.running.values()]
        return plan

    def step(self, plan: Plan) -> Answers:
        """What the engine gave, and whom it ended."""
        answers: Answers = []
        for drawn in self._engine.run():
            entry = self.running.get(drawn.row)
            if entry is None:
                continue  # ended by its own end token, earlier in this very step
            answers.append(self._answer(entry, drawn))
        return answers

    def _answer(self, entry: Entry, drawn: Drawn) -> tuple[Outcome, list[Sampled]]:
        entry.cached = max(entry.cached, drawn.cached)
        tokens = [] if drawn.token is None else [drawn.token]
        entry.tokens += tokens
        entry.fed = len(entry.tokens) - 1
        error = drawn.ended if isinstance(drawn.ended, PilothouseError) else None
        reason = drawn.ended if isinstance(drawn.ended, FinishReason) else None
        if tokens and tokens[0] in entry.job.end_ids:
            reason = FinishReason.STOP
        elif reason is FinishReason.STOP and not tokens:
            tokens = [min(entry.job.end_ids, default=0)]  # the engine's own end token, which it does not name; counted, never shown
        if reason is FinishReason.LENGTH and not tokens:
            error, reason = EngineFailed(), None  # an engine ends a row at its length with the last token
        if reason is not None or error is not None:
            self.withdraw(entry)
        return Outcome(entry, len(tokens), reason, error), [Sampled(token) for token in tokens]

    def withdraw(self, entry: Entry) -> bool:
        """Take `entry` out, wherever it is. False when it is gone already."""
        if entry.row == NOWHERE:
            return self._waiting.remove(entry)
        del self.running[entry.row]
        heappush(self._free, entry.row)
        self._engine.withdraw(entry.row)
        entry.row = NOWHERE
        return True

    def abandon(self) -> None:
        """The engine is broken, and the rows with it."""
        for entry in self.running.values():
            entry.row = NOWHERE
        self.running.clear()
