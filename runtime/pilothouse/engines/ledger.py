"""Decides one step and accounts for it: who gets a row, what each row is fed, who gives way, who is done. Computes nothing, waits for nothing.

The rules, in order:

- a row that answers comes before any prompt, and is fed in every step;
- prompts share what is left of a step (`portions`);
- waiting jobs get free rows, tenants in turn. When one doesn't fit into the memory the others wait behind it, until a row ends;
- a job whose prompt begins like one that is being computed waits for that part, to share it (n choices, a common system prompt);
- when a running row finds no memory, the youngest row gives way: it waits before all others and later goes on where it was;
- a row that outgrows what its keys were computed for (a long-rope model's original window) gives its row up in the same way, and comes back as
  a prompt: what has to be computed anew is shared out over many steps, and nobody else's next token waits for it;
- a row that does not even fit alone ends: with `length` if it has answered something, else refused.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from pilothouse.engines.base import Stages
from pilothouse.engines.entry import NOWHERE, Entry
from pilothouse.engines.late import late
from pilothouse.engines.lookup import Lookup
from pilothouse.engines.plan import Ending, Limits, Outcome, Plan, Share
from pilothouse.engines.portions import Portions
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import ContextLengthExceeded, PilothouseError
from pilothouse.messages import FinishReason

DRAFT_WIDTH = 8  # tokens that rows and drafts together may have in a step: beyond, a wrong draft costs the others too much
SHARED = 64  # prompt tokens that are worth waiting a step for


class Bench(Protocol):
    """What the ledger asks of the engine's side. `admit` raises a `PilothouseError` that is the job's own fault; anything else is a broken engine."""

    def admit(self, row: int, entry: Entry) -> int | None: ...
    def extend(self, row: int, tokens: int) -> bool: ...
    def rollback(self, row: int, tokens: int) -> None: ...
    def withdraw(self, row: int) -> None: ...


class Ledger:
    """The rows of one engine's life. `waiting` outlives it."""

    def __init__(self, bench: Bench, waiting: Waiting, limits: Limits) -> None:
        self.waiting = waiting
        self.limits = limits
        self.running: dict[int, Entry] = {}  # in order of age
        self.blocked = False  # the first in the queue did not fit: nobody is admitted until a row ends
        self._bench = bench
        self._portions = Portions(limits)
        self._free = list(range(limits.rows))
        heapify(self._free)
        self._ages = 0

    def __repr__(self) -> str:
        tokens = sum(entry.fed for entry in self.running.values())
        return f"<Ledger: {len(self.running)} of {self.limits.rows} rows, {tokens} tokens{', blocked' if self.blocked else ''}, {self.waiting!r}>"

    # -- decide ----------------------------------------------------------------------------------------------------------------

    def plan(self, now: float) -> Plan:
        """The next step at `now` (monotonic seconds). Nobody running or waiting gives an empty one; somebody always gets on."""
        plan = Plan()
        self._expire(now, plan)
        shares: dict[int, Share] = {}
        if self.limits.turn is not None:
            for entry in [entry for entry in self.running.values() if self._outgrows(entry)]:
                self._leave(entry)
                self.waiting.resume(entry)
        answering = [entry for entry in self.running.values() if len(entry.tokens) - entry.fed == 1]  # `left`, in fewer calls
        most = self._draft_most(len(answering))
        for entry in answering:
            if entry.row != NOWHERE:  # not given way to an older one just now
                self._feed(entry, 1, self._drafts(entry, most) if most > 0 else (), shares, plan)
        self._admit(plan)
        self._share_out(shares, plan)
        plan.shares = list(shares.values())
        return plan

    def _expire(self, now: float, plan: Plan) -> None:
        plan.ended += late(self.waiting, self.running.values(), self.limits, now)
        for entry, _ in plan.ended:
            self.withdraw(entry)

    def _admit(self, plan: Plan) -> None:
        """Free rows to those who wait."""
        self.waiting.unpark(self._follows)
        while self._free and not (self.blocked and self.running) and (entry := self.waiting.first()):
            if self._follows(entry):
                self.waiting.park()
                continue
            self.blocked = False
            row = self._free[0]
            try:
                cached = self._bench.admit(row, entry)
            except PilothouseError as error:
                self.waiting.pop()
                plan.ended.append((entry, error))
                continue
            except Exception:
                self.waiting.pop()  # whatever broke, this one is not tried again on the next engine
                raise
            if cached is None and self.running:
                self.blocked = True
                return
            self.waiting.pop()
            if cached is None:
                plan.ended.append((entry, _never_fits(entry)))
                continue
            heappop(self._free)
            entry.row, entry.fed, entry.opened = row, cached, len(entry.tokens)
            entry.end = min(len(entry.job.prompt) + entry.job.max_tokens, self.limits.context)
            if entry.begun:
                self.running[row] = entry
                self.running = dict(sorted(self.running.items(), key=lambda item: item[1].age))
                continue
            entry.age, entry.cached, self._ages = self._ages, cached, self._ages + 1
            self.running[row] = entry
            plan.admitted.append(entry)
            if self.limits.drafts:
                entry.lookup = Lookup(entry.tokens)

    def _follows(self, entry: Entry) -> bool:
        """Whether a row is computing what `entry` begins with."""
        return self.limits.sharing and any(
            other.left > 1 and other.job.tenant == entry.job.tenant and _same(entry.tokens, other.tokens, other.fed + SHARED)
            for other in self.running.values()
        )

    def _share_out(self, shares: dict[int, Share], plan: Plan) -> None:
        """Their portions of what is left of the step to the rows that do not answer yet."""
        prompts = [entry for row, entry in self.running.items() if row not in shares]
        if prompts:
            taken = sum(1 + len(share.drafts) for share in shares.values())
            for entry, tokens, stages in self._portions.of(prompts, len(shares), taken):
                if entry.row != NOWHERE:  # not given way to one before it just now
                    self._feed(entry, tokens, (), shares, plan, stages)

    def _feed(
        self, entry: Entry, tokens: int, drafts: tuple[int, ...], shares: dict[int, Share], plan: Plan, stages: Stages | None = None
    ) -> None:
        """Give `entry` its share, taking memory from the youngest row while there is none."""
        if drafts and not self._bench.extend(entry.row, tokens + len(drafts)):
            drafts = ()
        while not drafts and not self._bench.extend(entry.row, tokens):
            youngest = next(reversed(self.running.values()))
            if youngest is entry and len(self.running) == 1:
                plan.ended.append((entry, _never_fits(entry)))
                self.withdraw(entry)
                return
            shares.pop(youngest.row, None)
            self._leave(youngest)
            self.waiting.resume(youngest)
            self.blocked = True  # what it left is for those who run
            if youngest is entry:
                return
        answers = tokens == entry.left and (stages is None or stages.last)
        shares[entry.row] = Share(entry, tokens, drafts, stages, 1 + len(drafts) if answers else 0)

    def _draft_most(self, answering: int) -> int:
        if not self.limits.drafts or not answering or (self.limits.lone_drafts and answering > 1):
            return 0
        return min(DRAFT_WIDTH, self.limits.tokens_per_step - len(self.running) + answering) // answering - 1

    def _outgrows(self, entry: Entry) -> bool:
        """Whether its next token is the first beyond the window that it was opened in."""
        turn = self.limits.turn
        return turn is not None and entry.left == 1 and entry.opened <= turn <= entry.fed

    def _drafts(self, entry: Entry, most: int) -> tuple[int, ...]:
        if entry.lookup is None:
            return ()
        turn = self.limits.turn
        if turn is not None and entry.opened <= turn:
            most = min(most, turn - entry.fed - 1)  # a draft may be wrong: it does not outgrow anything
            if most < 1:
                return ()
        return entry.lookup.draft(min(most, entry.end - len(entry.tokens) - 1))

    # -- account ---------------------------------------------------------------------------------------------------------------

    def account(self, plan: Plan, sampled: Sequence[Sequence[int]]) -> list[Outcome]:
        """Enter the tokens of a step: one list for each share that answers, in order. Rows that end are withdrawn."""
        outcomes = []
        answers = iter(sampled)
        for share in plan.shares:
            entry = share.entry
            if share.stages is not None:
                self._portions.passed(share.stages)
            if not share.wanted:
                entry.fed += share.tokens if share.fed else 0
                continue
            tokens = next(answers)
            accepted = len(tokens) - 1
            kept, reason = self._keep(entry, tokens)
            entry.fed += share.tokens + accepted
            entry.tokens.extend(tokens[:kept])
            if entry.lookup is not None:
                entry.lookup.account(len(share.drafts), accepted)
            if reason is not None:
                self._leave(entry)
            elif len(share.drafts) > accepted:
                self._bench.rollback(entry.row, len(share.drafts) - accepted)
            outcomes.append(Outcome(entry, kept, reason))
        return outcomes

    def withdraw(self, entry: Entry) -> bool:
        """Take `entry` out, wherever it is: its client left, or its text is complete. False when it is gone already."""
        if entry.row != NOWHERE:
            self._leave(entry)
            return True
        return self.waiting.remove(entry)

    def abandon(self) -> None:
        """The engine is gone, and the rows with it."""
        for entry in self.running.values():
            entry.row, entry.fed = NOWHERE, 0
            self._portions.forget(entry)
        self.running.clear()

    def _keep(self, entry: Entry, tokens: Sequence[int]) -> tuple[int, FinishReason | None]:
        room = entry.end - len(entry.tokens)
        for place, token in enumerate(tokens[:room], 1):
            if token in entry.job.end_ids:
                return place, FinishReason.STOP
        return (room, FinishReason.LENGTH) if len(tokens) >= room else (len(tokens), None)

    def _leave(self, entry: Entry) -> None:
        del self.running[entry.row]
        heappush(self._free, entry.row)
        self._bench.withdraw(entry.row)
        entry.row, entry.fed = NOWHERE, 0
        self._portions.forget(entry)
        self.blocked = False


def _same(one: list[int], other: list[int], size: int) -> bool:
    """Whether both are longer than `size` and begin with the same so many tokens."""
    return min(len(one), len(other)) > size and one[:size] == other[:size]


def _never_fits(entry: Entry) -> Ending:
    if entry.answered:
        return FinishReason.LENGTH
    return ContextLengthExceeded(
        f"prompt: its {len(entry.tokens)} tokens need more memory than the server has for one request; shorten it", field="prompt"
    )
