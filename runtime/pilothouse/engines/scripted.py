"""The fake of both seams: exact, deterministic, without weights, and unforgiving to whoever breaks the seam's rules.

`ScriptedStep` answers logits whose likeliest token is a closed formula of *all* the row's tokens, kept by itself: a token that was lost, fed twice,
fed to another row or not rolled back changes everything after it. `Scripted` is an `Engine` that says given replies, word by word.
"""

import asyncio
import codecs
import re
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilothouse.engines.base import Capabilities, Job, Logits, Stats, Work
from pilothouse.engines.faults import Faults
from pilothouse.engines.stopping import StopScanner
from pilothouse.errors import EngineFailed, NotReady, Overloaded
from pilothouse.messages import Chunk, FinishReason, Guide, TokenLogprob, Usage

END = 0  # the id of the end token
SLOPE = 0.5  # logits fall by so much from each token to the next after the likeliest, round the vocabulary

Formula = Callable[[Sequence[int], int], int]


def following(tokens: Sequence[int], size: int) -> int:
    """The token after `tokens`, of a vocabulary of `size`: every token counts, by its place."""
    return (sum(tokens) * 7 + tokens[-1] * 31 + len(tokens) * 13 + 5) % size


def echoing(period: int) -> Formula:
    """A formula that repeats the last `period` tokens for ever: what drafts by lookup are good at."""
    return lambda tokens, size: tokens[-period] if len(tokens) >= period else following(tokens, size)


def script(prompt: Sequence[int], length: int, size: int, formula: Formula = following) -> list[int]:
    """The greedy answer of `length` tokens to `prompt`: the oracle."""
    tokens = list(prompt)
    for _ in range(length):
        tokens.append(formula(tokens, size))
    return tokens[len(prompt) :]


class ScriptedVocabulary:
    """`pieces[i]` are the bytes of token i; pieces may be parts of a character. By default an end token, then words of one letter and a space."""

    def __init__(self, pieces: Sequence[bytes] = ()) -> None:
        self._pieces = tuple(pieces) or (b"<|end|>", *(f"{a}{b} ".encode() for a in "bcdfgklm" for b in "aeiou"))
        self.size = len(self._pieces)

    def stream(self) -> "ScriptedText":
        return ScriptedText(self._pieces)

    def token_bytes(self, token: int) -> bytes:
        return self._pieces[token]

    def token_text(self, token: int) -> str:
        return self._pieces[token].decode(errors="replace")

    def text(self, tokens: Sequence[int]) -> str:
        """All of `tokens` as text."""
        return b"".join(self._pieces[token] for token in tokens).decode(errors="replace")


class ScriptedText:
    """Bytes to text, whole characters only."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token: int) -> str:
        return self._decoder.decode(self._pieces[token])

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class Misuse(AssertionError):
    """The caller broke a rule of the seam."""


@dataclass(slots=True)
class _Row:
    tokens: list[int]
    tenant: str
    room: int  # tokens that there is memory for
    opened: int  # tokens it was opened with


class ScriptedStep:
    """A `StepEngine` of `size` tokens. With `kv_tokens`, rows share so much memory; with `prefix_cache`, prompts of one tenant share what was fed before."""

    name = "scripted"
    device = "cpu"

    def __init__(
        self,
        size: int = 41,
        *,
        rows: int = 4,
        context: int = 256,
        tokens_per_step: int = 64,
        tokens_alone: int = 0,
        kv_tokens: int = 0,
        rollback: bool = True,
        prefix_cache: bool = False,
        turn: int | None = None,
        stages: int = 1,
        formula: Formula = following,
        faults: Faults | None = None,
    ) -> None:
        self.faults = faults or Faults()
        if self.faults.load_seconds:
            time.sleep(self.faults.load_seconds)
        if self.faults.fail_load is not None:
            raise self.faults.fail_load
        self.rows, self.context = rows, context
        self.tokens_per_step, self.tokens_alone = tokens_per_step, tokens_alone or tokens_per_step
        self.capabilities = Capabilities(rollback=rollback, prefix_cache=prefix_cache, batched=rows > 1)
        self.turn = turn
        self.stages = stages
        self.kv_tokens = kv_tokens or rows * context
        self.fed: list[int] = []  # tokens of each step; of a piece as many as its stages are worth
        self.open: dict[int, _Row] = {}
        self._resting: tuple[int, list[int], int] | None = None  # row, tokens, stage
        self.closed = False
        self._size = size
        self._formula = formula
        self._seen: list[tuple[str, list[int]]] = []
        self._thread = threading.get_ident()
        self._logits = -SLOPE * np.arange(size, dtype=np.float32)

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        self._check(row not in self.open and 0 <= row < self.rows, f"row {row} can't be opened")
        self._check(0 < len(prompt) <= self.context, f"a prompt of {len(prompt)} tokens")
        if self.faults.refuse_admits:
            self.faults.refuse_admits -= 1
            return None
        if self._used() + len(prompt) > self.kv_tokens:
            return None
        cached = self._cached(prompt, tenant) if self.capabilities.prefix_cache else 0
        self.open[row] = _Row(list(prompt[:cached]), tenant, len(prompt), len(prompt))
        return cached

    def extend(self, row: int, tokens: int) -> bool:
        held = self.open[row]
        need = max(0, len(held.tokens) + tokens - held.room)
        if self._used() + need > self.kv_tokens:
            return False
        held.room += need
        return True

    def step(self, work: Sequence[Work]) -> Logits:
        self._check(bool(work) and len({item.row for item in work}) == len(work), "a step of no rows, or one row twice")
        self.faults.steps += 1
        self.faults.gate.wait()
        if self.faults.delay_seconds:
            time.sleep(self.faults.delay_seconds)
        if self.faults.steps == self.faults.hang_step:
            self.faults.release.wait()
        if self.faults.steps in self.faults.fail_steps:
            raise RuntimeError(f"step {self.faults.steps} was to fail")
        self._check(all(item.stages is None for item in work[:-1]), "a piece that is not the last")
        answers = []
        for item in work:
            row = self.open[item.row]
            if self._rests(item, row):
                continue
            self._check(
                len(item.tokens) >= 1 and 0 <= item.wanted <= len(item.tokens), f"row {item.row}: {item.wanted} of {len(item.tokens)}"
            )
            for place, token in enumerate(item.tokens, item.wanted - len(item.tokens)):
                self._check(0 <= token < self._size, f"token {token}")
                row.tokens.append(token)
                if place >= 0:
                    answers.append(np.roll(self._logits, self._formula(row.tokens, self._size)))
            self._check(len(row.tokens) <= min(row.room, self.context), f"row {item.row} is fed more than it has room for")
            self._check(self.turn is None or row.opened > self.turn or len(row.tokens) <= self.turn, f"row {item.row} outgrows its window")
        self.fed.append(sum(map(_computed, work)))
        return np.stack(answers) if answers else np.empty((0, self._size), np.float32)

    def _wake(self, row: int) -> None:
        if self._resting is not None and self._resting[0] == row:
            self._resting = None

    def _rests(self, item: Work, row: _Row) -> bool:
        """Whether its tokens are not through yet."""
        if item.stages is None:
            self._wake(item.row)
            return False
        begin, end, every = item.stages
        self._check(item.stages.last or item.wanted == 0, f"row {item.row} wants what is not computed")
        rested = self._resting == (item.row, list(item.tokens), begin) if begin else True
        self._check(0 <= begin < end <= every == self.stages and rested, f"row {item.row} goes on at stage {begin}")
        self._check(len(row.tokens) + len(item.tokens) <= min(row.room, self.context), f"row {item.row} is fed more than it has room for")
        self._resting = None if item.stages.last else (item.row, list(item.tokens), end)
        return not item.stages.last

    def rollback(self, row: int, tokens: int) -> None:
        self._check(self.capabilities.rollback and 0 < tokens < len(self.open[row].tokens), f"row {row} goes back by {tokens}")
        del self.open[row].tokens[-tokens:]

    def withdraw(self, row: int) -> None:
        self._check(row in self.open, f"row {row} is not open")
        held = self.open.pop(row)
        self._wake(row)
        if self.capabilities.prefix_cache:
            self._seen.append((held.tenant, held.tokens))

    def usage(self) -> float:
        return self._used() / self.kv_tokens

    def warm_up(self) -> None:
        self._check(not self.open, "warm-up beside open rows")

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "device": self.device, "rows": self.rows, "tokens_per_step": self.tokens_per_step}

    def close(self) -> None:
        self._check(not self.closed, "closed twice")
        self.closed = True

    def _used(self) -> int:
        return sum(row.room for row in self.open.values())

    def _cached(self, prompt: Sequence[int], tenant: str) -> int:
        best = 0
        for owner, tokens in [*self._seen, *((row.tenant, row.tokens) for row in self.open.values())]:
            if owner == tenant:
                same = next((i for i, (a, b) in enumerate(zip(prompt, tokens, strict=False)) if a != b), min(len(prompt), len(tokens)))
                best = max(best, same)
        return min(best, len(prompt) - 1)

    def _check(self, right: bool, wrong: str) -> None:
        if threading.get_ident() != self._thread:
            raise Misuse("called from another thread than it was made on")
        if not right:
            raise Misuse(wrong)


def _computed(item: Work) -> int:
    begin, end, every = item.stages or (0, 1, 1)
    return -(-len(item.tokens) * (end - begin) // every)


class Scripted:
    """An `Engine` that says `reply(job)`, a word a token, as fast as it is read; with `hold`, one word per permit."""

    name = "scripted"
    device = "cpu"
    capabilities = Capabilities()

    def __init__(
        self,
        reply: str | Callable[[Job], str] = "Well said.",
        *,
        context: int = 4096,
        hold: asyncio.Semaphore | None = None,
        overloaded: bool = False,
        fail_after: int | None = None,
    ) -> None:
        """`overloaded` refuses every job; `fail_after` breaks the engine under each answer after so many words."""
        self.context = context
        self.jobs: list[Job] = []  # all that were accepted
        self.cancelled = 0
        self._reply: Callable[[Job], str] = (lambda job: reply) if isinstance(reply, str) else reply
        self._hold = hold
        self._overloaded, self._fail_after = overloaded, fail_after
        self._running = self._words = 0
        self._alive = False

    def start(self) -> None:
        self._alive = True

    def stop(self) -> None:
        self._alive = False

    def give_up(self) -> None:
        """Replies never hang."""

    def prepare(self, guide: Guide) -> None:
        """Replies are given: nothing guides them."""

    def reserve(self, jobs: int, tenant: str = "", tokens: int = 0, *, ahead: int = 0) -> None:
        if not self._alive:
            raise NotReady("the engine is not running; try again later")
        if self._overloaded:
            raise Overloaded("the queue is full; try again later")

    def generate(self, job: Job) -> AsyncGenerator[Chunk, None]:
        self.reserve(1)
        self.jobs.append(job)
        return self._say(job)

    def stats(self) -> Stats:
        return Stats(0, self._running, 1, 0.0, self._alive, self._words, not self._running)

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "device": self.device}

    async def _say(self, job: Job) -> AsyncGenerator[Chunk, None]:
        scanner, taken, reason, last = StopScanner(job.stop), 0, FinishReason.STOP, Chunk()
        self._running += 1
        try:
            for word in re.findall(r"\s*\S+|\s+", self._reply(job)):
                if taken == self._fail_after:
                    raise EngineFailed
                if self._hold is not None:
                    await self._hold.acquire()
                if not self._alive:
                    raise NotReady("the server is stopping; send the request again, another one answers")
                taken += 1
                self._words += 1
                text, hit = scanner.feed(word)
                last = Chunk(text, job.index, (taken,), self._logprobs(job, word, taken))
                if hit or taken == job.max_tokens:
                    reason = FinishReason.STOP if hit else FinishReason.LENGTH
                    break
                if text:
                    yield last
                last = Chunk(index=job.index)
            else:
                taken += 1  # the end token
            yield last._replace(text=last.text + scanner.finish(), finish_reason=reason, usage=Usage(len(job.prompt), taken))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self._running -= 1

    def _logprobs(self, job: Job, word: str, token: int) -> tuple[TokenLogprob, ...]:
        if job.logprobs is None:
            return ()
        entry = TokenLogprob(word, token, -SLOPE, word.encode())
        return (TokenLogprob(word, token, -SLOPE, word.encode(), (entry,) * min(job.logprobs, 1)),)
