"""Logits to tokens, the same for every engine: seeds, penalties, guides and log-probabilities mean one thing everywhere.

Each row is computed from its own logits and its own state, in numpy, some rows in one call: no arithmetic is shared between rows, so a row's
tokens can't depend, to the last bit, on who else is in the batch. That costs little: a greedy token of 32064 is an argmax of a few microseconds.

A draw depends on seed, choice and position alone (a counter-based generator, nothing carried from token to token). So an answer that was
preempted, rolled back or guessed ahead goes on with the very tokens it would have had.
"""

import secrets
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.base import Guidance, GuideState, Job, Logits
from pilothouse.engines.drawing import Chances, Drawer, chances, likeliest, logprobs
from pilothouse.errors import InvalidRequest, Unsupported

AHEAD = 32  # positions whose chances are made at once: making one costs as much
NEAR = 64  # tokens before max_tokens from where on a guided text is kept within reach of its end


class Sampled(NamedTuple):
    """One token. `logprob` is None unless the job asked for them; `top` lists the likeliest ids, best first, impossible ones left out."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@runtime_checkable
class ClosingGuide(GuideState, Protocol):
    """A guide that knows how its text can be completed."""

    def closing(self, most: int) -> list[int] | None:
        """A short way to a complete text, of at most `most` tokens with the end token; None where none was found."""


class _Row:
    """What one answer's next token depends on beside its logits."""

    __slots__ = (
        "bias",
        "bias_ids",
        "closer",
        "counts",
        "ends",
        "falls",
        "guide",
        "job",
        "near",
        "plain",
        "position",
        "seed",
        "seen",
        "warm",
        "way",
    )

    def __init__(self, job: Job, vocabulary: int, guide: GuideState | None) -> None:
        sampling = job.sampling
        self.job = job
        self.guide = guide
        self.position = 0
        self.falls: list[Chances] = []  # of the next positions, the last one first
        self.seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self.ends = np.array(sorted(i for i in job.end_ids if 0 <= i < vocabulary), np.intp)
        self.bias_ids = np.array([i for i, _ in sampling.logit_bias], np.intp)
        self.bias = np.array([b for _, b in sampling.logit_bias], np.float32)
        self.counts = np.zeros(vocabulary, np.float32) if sampling.presence_penalty or sampling.frequency_penalty else None
        self.seen: NDArray[np.bool_] | None = None
        if sampling.repetition_penalty != 1.0:
            prompt = np.array(job.prompt, np.intp)
            self.seen = np.zeros(vocabulary, np.bool_)
            self.seen[prompt[(prompt >= 0) & (prompt < vocabulary)]] = True
        self.closer: ClosingGuide | None = guide if guide is not None and len(self.ends) and isinstance(guide, ClosingGuide) else None
        self.way: list[int] | None = None  # how the text can be completed in time, once the end is near
        shortest = self.closer.closing(job.max_tokens) if self.closer is not None else None
        self.near = NEAR + 4 * len(shortest or ())
        self.warm = sampling.temperature > 0.0
        self.plain = guide is None and self.seen is None and self.counts is None and not len(self.bias_ids)

    def accept(self, token: int) -> None:
        self.position += 1
        if self.falls:
            self.falls.pop()
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        if self.guide is not None:
            self.guide.accept(token)

    def shape(self, logits: Logits) -> Logits:
        """The logits after penalties, bias, guide and min_tokens; a copy where anything changes."""
        early = self.position < self.job.min_tokens and len(self.ends) > 0
        if self.plain and not early:
            return logits
        sampling = self.job.sampling
        logits = logits.copy()
        if self.seen is not None:
            ids = np.flatnonzero(self.seen)
            told, by = logits[ids], np.float32(sampling.repetition_penalty)
            logits[ids] = np.where(told < 0, told * by, told / by)
        if self.counts is not None:
            logits -= np.float32(sampling.frequency_penalty) * self.counts
            logits[self.counts > 0] -= np.float32(sampling.presence_penalty)
        np.add.at(logits, self.bias_ids, self.bias)
        if self.guide is not None:
            self._guided(logits, self.guide)
        if early and not (self.guide is not None and self.guide.finished()):  # a complete guide has nothing else to say
            logits[self.ends] = -np.inf
        return logits

    def _guided(self, logits: Logits, guide: GuideState) -> None:
        """What the guide allows. A model that would end its answer ends what is open instead: a string, a list, an object."""
        best = int(logits.argmax())
        wish = logits[best]
        guide.mask(logits)
        if self.closer is not None and best in self.job.end_ids and logits[best] == -np.inf:
            way = self.closer.closing(self.job.max_tokens - self.position)
            if way:
                logits[way[0]] = max(logits[way[0]], wish)

    def in_time(self, token: int) -> int:
        """`token`, or where it would leave too few tokens to complete a guided text, the next one on the way to its end."""
        left = self.job.max_tokens - self.position
        if self.closer is None or self.guide is None or left > self.near:
            return token
        self.way = self.way or self.closer.closing(left)
        if self.way is None:
            return token  # nothing helps
        if token in self.job.end_ids:
            return token
        if token != self.way[0]:
            self.guide.accept(token)
            other = self.closer.closing(left - 1)
            self.guide.rollback(1)
            if other is not None:
                self.way = other
                return token
        token, *self.way = self.way
        return token

    def take(self, logits: Logits, token: int) -> Sampled:
        """Go on with `token`, or where it comes too late, with another one."""
        if self.closer is not None:
            token = self.in_time(token)
        self.accept(token)
        if self.job.logprobs is None:
            return Sampled(token)
        return Sampled(token, *logprobs(logits, token, self.job.logprobs))

    def chances(self) -> Chances:
        """Those of the next position."""
        if not self.falls:
            self.falls = chances(self.seed, self.job.index, self.position, AHEAD)[::-1]
        return self.falls[-1]


class Sampler:
    """Keeps the state of every open row and turns a step's logits into tokens. Not thread-safe: it belongs to the engine's thread."""

    def __init__(self, vocabulary: int, guidance: Guidance | None = None) -> None:
        """`vocabulary`: number of the tokenizer's tokens; logits beyond it (padding) are never chosen. A model may know fewer: that is seen with its
        first logits."""
        self._vocabulary = vocabulary
        self._guidance = guidance
        self._drawer = Drawer(vocabulary)
        self._rows: dict[int, _Row] = {}

    def open(self, row: int, job: Job, history: Sequence[int] = ()) -> None:
        """Begin `row`; `history` holds the tokens it has answered already (after a preemption).

        Raises `InvalidRequest` for a guide or a bias that can't be honoured.
        """
        wrong = next((i for i, _ in job.sampling.logit_bias if not 0 <= i < self._vocabulary), None)
        if wrong is not None:
            raise InvalidRequest(
                f"logit_bias: {wrong} is not a token id of this model; ids are 0 to {self._vocabulary - 1}", field="logit_bias"
            )
        guide = None
        if job.guide is not None:
            if self._guidance is None:
                raise Unsupported("response_format: this engine can't guide an answer; leave the field out", field="response_format")
            guide = self._guidance.compile(job.guide)
        state = _Row(job, self._vocabulary, guide)
        for token in history:
            state.accept(token)
        self._rows[row] = state

    def close(self, row: int) -> None:
        """Forget `row`; closing one that is not open does nothing."""
        self._rows.pop(row, None)

    def sample(self, logits: Logits, rows: Sequence[tuple[int, Sequence[int]]]) -> list[list[Sampled]]:
        """Tokens for each (row, drafts), whose 1 + len(drafts) rows of `logits` stand in the same order.

        A row answers tokens while they equal its drafts, then one more; an end token is the last.
        Raises `EngineFailed` where logits are not numbers.
        """
        if logits.shape[1] < self._vocabulary:
            self._vocabulary = logits.shape[1]
            self._drawer = Drawer(self._vocabulary)
        if len(logits) == len(rows):  # no drafts
            whole = logits if logits.shape[1] == self._vocabulary else logits[:, : self._vocabulary]
            alone = self._next([self._rows[row] for row, _ in rows], [whole[at] for at in range(len(rows))])
            return [[sampled] for sampled in alone]
        answers: list[list[Sampled]] = [[] for _ in rows]
        begins = list(accumulate((len(drafts) + 1 for _, drafts in rows), initial=0))
        going, place = list(range(len(rows))), 0
        while going:
            states = [self._rows[rows[at][0]] for at in going]
            taken = self._next(states, [logits[begins[at] + place, : self._vocabulary] for at in going])
            for at, sampled in zip(going, taken, strict=True):
                answers[at].append(sampled)
            going = [at for at in going if rows[at][1] and self._agreed(rows[at], answers[at])]
            place += 1
        return answers

    def _agreed(self, asked: tuple[int, Sequence[int]], answer: Sequence[Sampled]) -> bool:
        """Whether a row goes on: with a draft left, after one that was right and is not the end."""
        row, drafts = asked
        place, token = len(answer) - 1, answer[-1].token
        return place < len(drafts) and token == drafts[place] and token not in self._rows[row].job.end_ids

    def _next(self, rows: Sequence[_Row], logits: Sequence[Logits]) -> list[Sampled]:
        """One token for each row."""
        shaped = [row.shape(own) for row, own in zip(rows, logits, strict=True)]
        warm = [at for at, row in enumerate(rows) if row.warm]
        if not warm:
            return [row.take(own, likeliest(own)) for row, own in zip(rows, shaped, strict=True)]
        drawn = self._drawer.draw([shaped[at] for at in warm], [rows[at].job.sampling for at in warm], [rows[at].chances() for at in warm])
        tokens = dict(zip(warm, drawn, strict=True))
        return [row.take(own, tokens[at] if row.warm else likeliest(own)) for at, (row, own) in enumerate(zip(rows, shaped, strict=True))]
