"""What the ledger decides, and within which bounds: plain values."""

from dataclasses import dataclass, field
from typing import NamedTuple

from pilothouse.engines.base import Stages, Work
from pilothouse.engines.entry import Entry
from pilothouse.errors import PilothouseError
from pilothouse.messages import FinishReason

Ending = FinishReason | PilothouseError


@dataclass(frozen=True, slots=True)
class Limits:
    """The engine's sizes and the settings' times, in tokens and seconds. `rows` is at most `tokens_per_step`: each row gets on in every step."""

    rows: int
    context: int
    tokens_per_step: int
    drafts: bool = False
    sharing: bool = False  # a prompt's computed beginning is there for others at once
    queue_seconds: float = 60.0
    request_seconds: float = 600.0
    lone_drafts: bool = False  # only while one row answers
    turn: int | None = None  # tokens that a row opened with no more can't outgrow without being computed anew
    stages: int = 1  # between which a prompt's piece can rest
    tokens_alone: int = 0  # most of a step of one prompt and nothing else; 0: as of any


class Share(NamedTuple):
    """One row's part of a step: its next `tokens`, then drafts; through these `stages` only, if any are named. It answers, for `wanted` of them,
    when nothing of it is left to feed."""

    entry: Entry
    tokens: int
    drafts: tuple[int, ...] = ()
    stages: Stages | None = None
    wanted: int = 0

    @property
    def fed(self) -> bool:
        """Whether its tokens are computed with this step."""
        return self.stages is None or self.stages.last

    def work(self) -> Work:
        entry, count, drafts, stages, wanted = self
        fed = entry.fed
        return Work(entry.row, [*entry.tokens[fed : fed + count], *drafts], wanted, stages)


@dataclass(slots=True)
class Plan:
    """One step, decided. `ended` are entries that leave without a token of this step."""

    shares: list[Share] = field(default_factory=list)
    admitted: list[Entry] = field(default_factory=list)  # for the first time
    ended: list[tuple[Entry, Ending]] = field(default_factory=list)


class Outcome(NamedTuple):
    """What a step gave one row: how many of the sampled tokens count, and why it is over, if it is; `error` where it failed alone."""

    entry: Entry
    kept: int
    reason: FinishReason | None
    error: PilothouseError | None = None
