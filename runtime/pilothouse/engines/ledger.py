"""Decides one step and accounts for it: who gets a row, what each row is fed, who gives way, who is done. Computes nothing, waits for nothing.

The rules, in order:

- a row that answers comes before any prompt, and is fed in every step;
- prompts share what is left of a step, and the less the more rows are answering (by the square of their part of the rows: one long prompt
  beside eight answers gets an eightieth), so that a long prompt does not stall the answers, and a burst of prompts is not slowed by a few;
- of that, half is the oldest prompt's and the rest goes to the shortest: a short one never waits for a long one, and a long one always gets on;
- where an engine can hold a piece between stages, a long prompt beside answers goes through them in large pieces, a stage or some a step: what
  a piece costs whatever its size (the keys before it) is paid once for many tokens, and a step costs what it would with a small one (by those
  who answer when it begins). One piece at a time, of the oldest long prompt and of the shortest in turn, for half of what prompts have where
  there are usual ones, of whose half the oldest gets half;
- beside that, usual prompts (of up to half a step) get a quarter of what they still need together, or up to an eighth of a step, if that is
  more: a row that waits for its first token is empty, and a usual prompt costs those who answer a few longer steps, once;
- waiting jobs get free rows, tenants in turn. When one doesn't fit into the memory the others wait behind it, until a row ends;
- a job whose prompt begins like one that is being computed waits for that part, to share it (n choices, a common system prompt);
- when a running row finds no memory, the youngest row gives way: it waits before all others and later goes on where it was;
- a row that outgrows what its keys were computed for (a long-rope model's original window) gives its row up in the same way, and comes back as
  a prompt: what has to be computed anew is shared out over many steps, and nobody else's next token waits for it;
- a row that does not even fit alone ends: with `length` if it has answered something, else refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Protocol

from pilothouse.engines.base import Stages
from pilothouse.engines.entry import NOWHERE, Entry
from pilothouse.engines.late import late
from pilothouse.engines.lookup import Lookup
from pilothouse.engines.plan import Ending, Limits, Outcome, Plan, Share
from pilothouse.engines.waiting import Waiting
from pilothouse.errors import ContextLengthExceeded, PilothouseError
from pilothouse.messages import FinishReason

LEAST_CHUNK = 6  # prompt tokens a step has room for, however many rows answer: less than half of what eight answers cost
LEAST_PASSING = 4  # the same where pieces rest between stages: eight answers wait for half as long again
USUAL = 2  # a prompt of up to half a step is usual, and so is what is left of any if it is a piece
PIECE = 8  # a step's eighth: usual prompts are fed that at once, together; it delays those who answer once and by little
QUARTER = (
    4  # of what usual prompts need, a step: with half of it gaps' 95th percentile is half again as long, and first tokens come no sooner
)
DRAFT_WIDTH = 8  # tokens that rows and drafts together may have in a step: beyond, a wrong draft costs the others too much
SHARED = 64  # prompt tokens that are worth waiting a step for


class Bench(Protocol):
    """What the ledger asks of the engine's side. `admit` raises a `PilothouseError` that is the job's own fault; anything else is a broken engine."""

    def admit(self, row: int, entry: Entry) -> int | None: ...
    def extend(self, row: int, tokens: int) -> bool: ...
    def rollback(self, row: int, tokens: int) -> None: ...
    def withdraw(self, row: int) -> None: ...


@dataclass(slots=True, eq=False)
class Passing:
    """A piece of a prompt that goes through the engine's stages over several steps."""

    entry: Entry
    tokens: int
    at: int = 0  # stages behind it

    def stages(self, tokens: int, of: int) -> Stages:
        """The next ones, out of `of`: as many as cost what `tokens` cost in all of them, and at least one."""
        return Stages(self.at, min(of, self.at + max(1, tokens * of // self.tokens)), of)


class Ledger:
    """The rows of one engine's life. `waiting` outlives it."""

    def __init__(self, bench: Bench, waiting: Waiting, limits: Limits) -> None:
        self.waiting = waiting
        self.limits = limits
        self.running: dict[int, Entry] = {}  # in order of age
        self.blocked = False  # the first in the queue did not fit: nobody is admitted until a row ends
        self._bench = bench
        self._passing: Passing | None = None
        self._shortest_next = False  # of the long prompts; else the oldest
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
        answering = [entry for entry in self.running.values() if entry.left == 1]
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
        """What a step has for prompts: more, the more of the rows are prompts; and a good piece of those that are usual."""
        prompts = [entry for row, entry in self.running.items() if row not in shares]
        if not prompts:
            return
        whole, shortest_first = self.limits.tokens_per_step, sorted(prompts, key=lambda entry: entry.left)
        base = max(
            LEAST_CHUNK if self.limits.stages == 1 else LEAST_PASSING, whole * len(prompts) ** 2 // (len(prompts) + len(shares)) ** 2
        )
        usual = [entry for entry in shortest_first if entry.left <= whole // PIECE or entry.opened <= whole // USUAL]
        wanted = sum(entry.left for entry in usual)
        most = whole - sum(1 + len(share.drafts) for share in shares.values())
        extra = max(min(wanted, whole // PIECE), wanted // QUARTER)
        beside, passed = bool(shares), 0
        passing = self._pass(prompts, usual, min(base, most), beside) if most > 0 else None
        if passing is not None:
            shortest_first = [entry for entry in usual if entry is not passing.entry]
            prompts = [entry for entry in prompts if entry in shortest_first]
            passed = base - base // 2 if prompts else base
        budget = min(base - passed + extra, most) if prompts else 0
        sizes: dict[Entry, int] = {}
        if prompts:
            sizes[prompts[0]] = min(prompts[0].left, -(-(base - passed) // 2), budget)
            budget -= sizes[prompts[0]]
        for entry in shortest_first:
            size = min(entry.left - sizes.get(entry, 0), budget)
            sizes[entry] = sizes.get(entry, 0) + size
            budget -= size
        for entry in prompts:
            if entry.row != NOWHERE and sizes.get(entry):
                self._feed(entry, sizes[entry], (), shares, plan)
        if passing is not None and passing.entry.row != NOWHERE:
            stages = passing.stages(passed if beside else passing.tokens, self.limits.stages)
            self._feed(passing.entry, passing.tokens, (), shares, plan, stages)

    def _pass(self, prompts: Sequence[Entry], usual: Sequence[Entry], base: int, beside: bool) -> "Passing | None":
        """The piece that rests between two stages, or one that begins: only beside those who answer, of a prompt that is not usual."""
        if self._passing is not None or not beside or self.limits.stages == 1 or len(usual) == len(prompts):
            return self._passing
        long = [entry for entry in prompts if entry not in usual]
        entry = min(long, key=lambda entry: entry.left) if self._shortest_next else long[0]
        self._shortest_next = not self._shortest_next
        part, whole = -(-base // 2) if usual else base, self.limits.tokens_per_step
        tokens = min(entry.left, part * self.limits.stages, whole)
        if entry.left - tokens <= whole // PIECE:
            tokens = entry.left
        self._passing = Passing(entry, tokens)
        return self._passing

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
        shares[entry.row] = Share(entry, tokens, drafts, stages)

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
        return entry.lookup.draft(min(most, self._limit(entry) - entry.answered - 1))

    # -- account ---------------------------------------------------------------------------------------------------------------

    def account(self, plan: Plan, sampled: Sequence[Sequence[int]]) -> list[Outcome]:
        """Enter the tokens of a step: one list for each share that answers, in order. Rows that end are withdrawn."""
        outcomes = []
        answers = iter(sampled)
        for share in plan.shares:
            entry = share.entry
            if share.stages is not None and self._passing is not None:
                self._passing.at = share.stages.end
                if share.fed:
                    self._passing = None
            if not share.answers:
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
        self.running.clear()
        self._passing = None

    def _keep(self, entry: Entry, tokens: Sequence[int]) -> tuple[int, FinishReason | None]:
        room = self._limit(entry) - entry.answered
        for place, token in enumerate(tokens[:room], 1):
            if token in entry.job.end_ids:
                return place, FinishReason.STOP
        return (room, FinishReason.LENGTH) if len(tokens) >= room else (len(tokens), None)

    def _limit(self, entry: Entry) -> int:
        """The most tokens of its answer."""
        return min(entry.job.max_tokens, self.limits.context - len(entry.job.prompt))

    def _leave(self, entry: Entry) -> None:
        del self.running[entry.row]
        heappush(self._free, entry.row)
        self._bench.withdraw(entry.row)
        entry.row, entry.fed = NOWHERE, 0
        if self._passing is not None and self._passing.entry is entry:
            self._passing = None
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
