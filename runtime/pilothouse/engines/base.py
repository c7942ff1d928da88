"""The seams: `Engine`, what the runtime sees, and below it what the loop drives: `StepEngine`, or `TokenEngine` where a library does it all.

`engines/scripted.py` implements two of them for tests; `engines/loop.py` makes an `Engine` out of either of the lower ones.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pilothouse.errors import PilothouseError
from pilothouse.messages import Chunk, FinishReason, Guide, Sampling

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do. What it can't is refused by name at the edge, before any work."""

    logprobs: bool = True
    seed: bool = True
    penalties: bool = True  # presence and frequency
    repetition_penalty: bool = True
    min_p: bool = True
    logit_bias: bool = True
    own_ends: bool = True  # a request's own end tokens: ignore_eos, and stop_token_ids that min_tokens holds back
    guidance: bool = True
    prefix_cache: bool = False
    rollback: bool = False  # drafts may be fed and taken back
    lone_drafts: bool = False  # a row with drafts is computed apart from the others: drafts pay only while it is alone
    batched: bool = False  # more than one row a step
    exact: bool = True  # a row's tokens do not depend on its neighbours, chunks or roll-backs


@dataclass(frozen=True, slots=True)
class Job:
    """One row's work, in tokens. `end_ids` close the answer (the model's and the client's); `stop` strings cut the text before themselves."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    min_tokens: int = 0
    end_ids: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    guide: Guide | None = None
    tenant: str = ""
    index: int = 0


class Stages(NamedTuple):
    """The part of an engine's graph that a prompt's piece goes through in one step: from `begin`, where it rests, to `end`, of `all` stages."""

    begin: int
    end: int
    all: int

    @property
    def last(self) -> bool:
        """Whether the piece is through."""
        return self.end == self.all


class Work(NamedTuple):
    """One row's share of a step: feed `tokens`, answer the logits at the last `wanted` of them (0 within a prompt, 1 + drafts while decoding).

    With `stages` (needs `StepEngine.stages` > 1) they are a piece of a prompt that goes through these only. The same tokens come again, for the
    next stages, in a later step, or the row is withdrawn; they count as fed when they are through. One item of a step at most, the last.
    """

    row: int
    tokens: Sequence[int]
    wanted: int
    stages: Stages | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """The numbers that gauges, readiness and reprs all read."""

    waiting: int
    running: int
    rows: int
    kv_used: float  # 0..1
    alive: bool
    steps: int  # counts up while the engine makes progress
    idle: bool
    broken: bool = False  # it failed, and could not be built again


class StepEngine(Protocol):
    """Computes; decides nothing. Every call comes from the one thread that owns it.

    Row handles are small integers chosen by the caller, free again after `withdraw`.
    """

    name: str
    device: str
    capabilities: Capabilities
    rows: int  # most rows at once
    context: int  # most tokens of one row, prompt and answer
    tokens_per_step: int  # most tokens one step should be fed, over all rows
    tokens_alone: int  # the same, where all there is is one prompt
    turn: int | None  # a row that was opened with no more tokens and outgrows them is computed anew as a whole, in that step; None: never
    stages: int  # between which a prompt's piece can rest while everybody else goes on; 1: none can

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row` for `prompt`, whose last `answered` tokens it has answered itself, before it gave way.

        Returns how many of the first tokens need not be fed (a prefix hit, always < len(prompt)), None for "no room now".
        """

    def extend(self, row: int, tokens: int) -> bool:
        """Make room for `tokens` more of this row; False when memory is short (the caller preempts a row or waits)."""

    def step(self, work: Sequence[Work]) -> Logits:
        """Feed every item; answer float32 logits [sum of wanted, vocabulary], in order. The array is the caller's until the next step."""

    def rollback(self, row: int, tokens: int) -> None:
        """Forget the last `tokens` of the row (needs `capabilities.rollback`)."""

    def withdraw(self, row: int) -> None:
        """Close the row and free what it held; its full blocks may stay as a prefix for others."""

    def usage(self) -> float:
        """Share of the KV memory in use, 0..1."""

    def warm_up(self) -> None:
        """Run every shape that a first request would otherwise pay for."""

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log: kernels, precision, threads, why this engine was chosen."""

    def close(self) -> None:
        """Free everything. Called once, from the owning thread."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a step gave one row of a `TokenEngine`: a token, or why it ended, or both. `cached` counts prompt tokens, known at the end."""

    row: int
    token: int | None = None
    ended: FinishReason | PilothouseError | None = None
    cached: int = 0


@runtime_checkable
class TokenEngine(Protocol):
    """Schedules and draws by itself: jobs go in, tokens come out. Every call comes from the one thread that owns it.

    Row handles are small integers chosen by the caller, free again after `withdraw`, which every row gets, however it ended.
    """

    name: str
    device: str
    capabilities: Capabilities
    rows: int
    context: int
    tokens_per_step: int

    def room(self) -> bool:
        """Whether a row that is opened now is computed with the others, and not after them."""

    def begin(self, row: int, job: Job) -> None:
        """Open `row`. Raises a `PilothouseError` that is the job's own fault; anything else is a broken engine."""

    def run(self) -> list[Drawn]:
        """One step. Raises when the engine is broken; what failed for one row alone is its `ended`."""

    def withdraw(self, row: int) -> None:
        """Close the row, wherever it is in its answer."""

    def usage(self) -> float: ...

    def warm_up(self) -> None:
        """Run every size of batch that a first request would otherwise pay for."""

    def describe(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class TextStream(Protocol):
    """Token ids of one answer, in order, to text, without ever showing half a character."""

    def step(self, token: int) -> str:
        """The text that `token` completes, "" while a character is open."""

    def finish(self) -> str:
        """What is still held back, with U+FFFD for a character that never closed."""


class Vocabulary(Protocol):
    """What the loop needs to know of the tokenizer."""

    size: int

    def stream(self) -> TextStream: ...

    def token_bytes(self, token: int) -> bytes:
        """The token's own bytes (for logprobs)."""

    def token_text(self, token: int) -> str:
        """The token as text, special tokens by name."""


class Engine(Protocol):
    """What the runtime sees."""

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def context(self) -> int: ...

    def start(self) -> None:
        """Start the owning thread, load and warm up; blocks until a first answer was computed, raises what loading raised."""

    def generate(self, job: Job) -> AsyncIterator[Chunk]:
        """Queue `job` and stream its answer. Raises `Overloaded` at once when the queue is full; closing the iterator withdraws the row within one step."""

    def prepare(self, guide: Guide) -> None:
        """Compile `guide` ahead, on the caller's thread, so that the engine's own never waits for it. Raises `InvalidRequest`."""

    def reserve(self, jobs: int, tenant: str = "", tokens: int = 0, *, ahead: int = 0) -> None:
        """Raise `Overloaded` unless `jobs` more, with `tokens` of prompt in all, could be queued now, behind `ahead` that are about to be:
        before any work, and before any starts."""

    def give_up(self) -> None:
        """The engine makes no progress: end every job with an error, and let nobody in before it does."""

    def stop(self) -> None:
        """End the thread; running jobs end with `NotReady`."""

    def stats(self) -> Stats: ...

    def describe(self) -> dict[str, Any]: ...


class Guidance(Protocol):
    """Compiles guides and masks logits; one per model."""

    def compile(self, guide: Guide) -> "GuideState":
        """Raises `InvalidRequest` for a schema that is too large, too deep or not understood."""


class GuideState(Protocol):
    """One row's place in its grammar."""

    def mask(self, logits: Logits) -> None:
        """Set the logits [vocabulary] of every token that may not come next to -inf, in place."""

    def accept(self, token: int) -> None: ...

    def rollback(self, tokens: int) -> None: ...

    def finished(self) -> bool:
        """The text is complete: only an end token may follow."""
