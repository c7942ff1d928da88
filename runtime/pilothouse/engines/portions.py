"""What each prompt gets of a step, beside those who answer.

- The less, the more rows are answering (by the square of the prompts' part of the rows: one long prompt beside eight answers gets an eightieth), so
  that a long prompt does not stall the answers, and a burst of prompts is not slowed by a few;
- of that, half is the oldest prompt's and the rest goes to the shortest: a short one never waits for a long one, and a long one always gets on;
- where an engine can hold a piece between stages, a long prompt beside answers goes through them in large pieces, a stage or some a step: what
  a piece costs whatever its size (the keys before it) is paid once for many tokens, and a step costs what it would with a small one (by those
  who answer when it begins). One piece at a time, of the oldest long prompt and of the shortest in turn, for half of what prompts have where
  there are usual ones, of whose half the oldest gets half;
- a prompt that is all there is has a step of `Limits.tokens_alone`;
- beside that, usual prompts (of up to half a step) get a quarter of what they still need together, or up to an eighth of a step, if that is
  more: a row that waits for its first token is empty, and a usual prompt costs those who answer a few longer steps, once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pilothouse.engines.base import Stages
from pilothouse.engines.entry import Entry
from pilothouse.engines.plan import Limits

LEAST_CHUNK = 6  # prompt tokens a step has room for, however many rows answer: less than half of what eight answers cost
LEAST_PASSING = 4  # the same where pieces rest between stages: eight answers wait for half as long again
USUAL = 2  # a prompt of up to half a step is usual, and so is what is left of any if it is a piece
PIECE = 8  # a step's eighth: usual prompts are fed that at once, together; it delays those who answer once and by little
QUARTER = (
    4  # of what usual prompts need, a step: with half of it gaps' 95th percentile is half again as long, and first tokens come no sooner
)


class Portion(NamedTuple):
    """The next tokens of a prompt, through all of the engine's stages or through these."""

    entry: Entry
    tokens: int
    stages: Stages | None = None


@dataclass(slots=True, eq=False)
class _Passing:
    """A piece of a prompt that goes through the engine's stages over several steps."""

    entry: Entry
    tokens: int
    at: int = 0  # stages behind it


class Portions:
    """Remembers the piece that rests, and whose turn it is next."""

    def __init__(self, limits: Limits) -> None:
        self._whole, self._stages = limits.tokens_per_step, limits.stages
        self._alone = limits.tokens_alone or limits.tokens_per_step
        self._least = LEAST_CHUNK if limits.stages == 1 else LEAST_PASSING
        self._passing: _Passing | None = None
        self._shortest_next = False  # of the long prompts; else the oldest

    def of(self, prompts: Sequence[Entry], answering: int, taken: int) -> list[Portion]:
        """Portions of `prompts`, of which there is one and which are in order of age, beside `answering` rows that have `taken` tokens of the step.

        That of a piece which rests afterwards comes last.
        """
        shortest_first = sorted(prompts, key=lambda entry: entry.left)
        usual = [entry for entry in shortest_first if entry.left <= self._whole // PIECE or entry.opened <= self._whole // USUAL]
        whole = self._alone if len(prompts) == 1 and not answering else self._whole
        base = max(self._least, whole * len(prompts) ** 2 // (len(prompts) + answering) ** 2)
        wanted, most = sum(entry.left for entry in usual), whole - taken
        extra = max(min(wanted, self._whole // PIECE), wanted // QUARTER)
        passing = self._pass(prompts, usual, min(base, most), beside=answering > 0) if most > 0 else None
        if passing is None:
            return self._flat(prompts, shortest_first, base, min(base + extra, most))
        beside = [entry for entry in usual if entry is not passing.entry]
        passed = base - base // 2 if beside else base
        flat = self._flat([entry for entry in prompts if entry in beside], beside, base - passed, min(base - passed + extra, most))
        return [*flat, self._next(passing, passed if answering else passing.tokens)]

    def passed(self, stages: Stages) -> None:
        """The piece has been computed up to the end of these."""
        if self._passing is not None:
            self._passing.at = stages.end
            if stages.last:
                self._passing = None

    def forget(self, entry: Entry) -> None:
        """It has no row any more."""
        if self._passing is not None and self._passing.entry is entry:
            self._passing = None

    def _flat(self, prompts: Sequence[Entry], shortest_first: Sequence[Entry], base: int, budget: int) -> list[Portion]:
        """`budget` tokens for those who go through all stages at once: half of `base` for the oldest, the rest for the shortest."""
        if not prompts:
            return []
        sizes = {prompts[0]: min(prompts[0].left, -(-base // 2), budget)}
        budget -= sizes[prompts[0]]
        for entry in shortest_first:
            size = min(entry.left - sizes.get(entry, 0), budget)
            sizes[entry] = sizes.get(entry, 0) + size
            budget -= size
        return [Portion(entry, sizes[entry]) for entry in prompts if sizes[entry]]

    def _pass(self, prompts: Sequence[Entry], usual: Sequence[Entry], base: int, *, beside: bool) -> _Passing | None:
        """The piece that rests, or one that begins: only beside those who answer, of a prompt that is not usual."""
        if self._passing is not None or not beside or self._stages == 1 or len(usual) == len(prompts):
            return self._passing
        long = [entry for entry in prompts if entry not in usual]
        entry = min(long, key=lambda entry: entry.left) if self._shortest_next else long[0]
        self._shortest_next = not self._shortest_next
        part = base - base // 2 if usual else base
        tokens = min(entry.left, part * self._stages, self._whole)
        if entry.left - tokens <= self._whole // PIECE:
            tokens = entry.left
        self._passing = _Passing(entry, tokens)
        return self._passing

    def _next(self, passing: _Passing, tokens: int) -> Portion:
        """Its next stages: as many as cost what `tokens` cost in all of them, and at least one."""
        several = max(1, tokens * self._stages // passing.tokens)
        return Portion(passing.entry, passing.tokens, Stages(passing.at, min(self._stages, passing.at + several), self._stages))
