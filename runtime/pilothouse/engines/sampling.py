"""Logits to tokens, the same for every engine: seeds, penalties, guides and log-probabilities mean one thing everywhere.

Each row is computed by itself, in numpy, from its own logits and its own state: no arithmetic is shared between rows, so a row's tokens can't
depend, to the last bit, on who else is in the batch. That costs little: a row of 32064 logits is an argmax of a few microseconds, and a nucleus
is found by partition, not by sorting the vocabulary.

A draw depends on seed, choice and position alone (a counter-based generator, nothing carried from token to token). So an answer that was
preempted, rolled back or guessed ahead goes on with the very tokens it would have had.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.base import Guidance, GuideState, Job, Logits
from pilothouse.errors import EngineFailed, InvalidRequest, Unsupported
from pilothouse.messages import Sampling

FIRST_LOOK = 128  # a nucleus is nearly always within so many tokens; eight times more are looked at until it is
WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """One token. `logprob` is None unless the job asked for them; `top` lists the likeliest ids, best first, impossible ones left out."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def uniform(seed: int, choice: int, position: int) -> float:
    """The number in [0, 1) that decides the token at `position` of a choice: Philox, keyed by seed and choice, counted by position."""
    philox = np.random.Philox(key=np.array([seed & WORD, choice & WORD], np.uint64), counter=position)
    return float(philox.random_raw() >> 11) * 2.0**-53


def draw(logits: Logits, sampling: Sampling, chance: float) -> int:
    """The token of `logits` [vocabulary] that `chance` in [0, 1) falls on, after temperature, min-p, top-k and top-p, in this order.

    Candidates stand in order of probability, equal ones in order of id; at least the likeliest is always left.
    """
    best = int(logits.argmax())
    if sampling.temperature <= 0.0:
        return best
    scaled = logits - logits[best]  # the largest is 0: dividing by a tiny temperature can't overflow upwards
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(scaled / np.float32(max(sampling.temperature, 1e-30)))
    if sampling.min_p > 0.0:
        weights[weights < np.float32(min(sampling.min_p, 1.0))] = 0.0  # the likeliest weighs 1
    if sampling.top_k <= 0 and sampling.top_p >= 1.0:
        return _pick(np.cumsum(weights, dtype=np.float64), chance)
    ids, reach = _likeliest(weights, sampling.top_k, sampling.top_p)
    if sampling.top_p < 1.0:
        whole = reach[-1] if sampling.top_k > 0 else weights.sum(dtype=np.float64)
        reach = reach[: int(np.searchsorted(reach, sampling.top_p * whole)) + 1]
    return int(ids[_pick(reach, chance)])


def _pick(reach: NDArray[np.float64], chance: float) -> int:
    """The place that `chance` falls on in running sums; never one of zero width."""
    place = int(np.searchsorted(reach, chance * reach[-1], side="right"))
    return place if place < len(reach) else int(np.searchsorted(reach, reach[-1]))


def _likeliest(weights: Logits, top_k: int, top_p: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Ids by falling weight, and their running sums: top_k of them, else enough to hold top_p of the whole."""
    size = len(weights)
    most = min(top_k, size) if top_k > 0 else size
    enough = np.inf if top_k > 0 else top_p * weights.sum(dtype=np.float64)
    look = most if top_k > 0 else min(FIRST_LOOK, size)
    while True:
        ids = np.flatnonzero(weights >= np.partition(weights, size - look)[size - look]) if look < size else np.arange(size)
        ids = _falling(weights, ids)[:most]
        reach = np.cumsum(weights[ids], dtype=np.float64)
        if look >= most or reach[-1] >= enough:
            return ids, reach
        look = min(look * 8, most)


def _falling(weights: Logits, ids: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rising `ids` by falling weight, equal ones still rising: one sort of integers, ten times faster than a stable argsort of floats."""
    bits = (weights[ids] + np.float32(0)).view(np.uint32).astype(np.uint64)  # adding 0 makes -0 a 0
    order = np.where(bits >> np.uint64(31), bits, bits ^ np.uint64(0x7FFFFFFF))  # falling floats as rising integers
    return np.sort((order << np.uint64(32)) | ids.astype(np.uint64)).astype(np.uint32).astype(np.intp)


def logprobs(logits: Logits, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural log-probability of `token`, and the `count` likeliest ids with theirs."""
    peak = np.float64(logits.max())
    whole = peak + np.log(np.exp(logits.astype(np.float64) - peak).sum())
    ids, _ = _likeliest(logits, count, 1.0) if count > 0 else (np.empty(0, np.intp), None)
    top = tuple((int(i), min(float(logits[i] - whole), 0.0)) for i in ids if logits[i] > -np.inf)
    return min(float(logits[token] - whole), 0.0), top


class _Row:
    """What one answer's next token depends on beside its logits."""

    __slots__ = ("bias", "bias_ids", "counts", "ends", "guide", "job", "plain", "position", "seed", "seen")

    def __init__(self, job: Job, vocabulary: int, guide: GuideState | None) -> None:
        sampling = job.sampling
        self.job = job
        self.guide = guide
        self.position = 0
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
        self.plain = guide is None and self.seen is None and self.counts is None and not len(self.bias_ids)

    def accept(self, token: int) -> None:
        self.position += 1
        if self.seen is not None:
            self.seen[token] = True
        if self.counts is not None:
            self.counts[token] += 1
        if self.guide is not None:
            self.guide.accept(token)

    def shape(self, logits: Logits) -> Logits:
        """The logits after penalties, bias, guide and min_tokens; a copy where anything changes."""
        sampling, early = self.job.sampling, self.position < self.job.min_tokens and len(self.ends) > 0
        if self.plain and not early:
            return logits
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
            self.guide.mask(logits)
        if early and not (self.guide is not None and self.guide.finished()):  # a complete guide has nothing else to say
            logits[self.ends] = -np.inf
        return logits

    def next(self, logits: Logits) -> Sampled:
        logits = self.shape(logits)
        if not np.isfinite(logits[logits.argmax()]):  # argmax finds a NaN first
            raise EngineFailed
        sampling = self.job.sampling
        chance = uniform(self.seed, self.job.index, self.position) if sampling.temperature > 0.0 else 0.0
        token = draw(logits, sampling, chance)
        self.accept(token)
        if self.job.logprobs is None:
            return Sampled(token)
        return Sampled(token, *logprobs(logits, token, self.job.logprobs))


class Sampler:
    """Keeps the state of every open row and turns a step's logits into tokens. Not thread-safe: it belongs to the engine's thread."""

    def __init__(self, vocabulary: int, guidance: Guidance | None = None) -> None:
        """`vocabulary`: number of real tokens; logits beyond it (padding) are never chosen."""
        self._vocabulary = vocabulary
        self._guidance = guidance
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
        answers, at = [], 0
        for row, drafts in rows:
            state, taken = self._rows[row], []
            for place in range(len(drafts) + 1):
                sampled = state.next(logits[at + place, : self._vocabulary])
                taken.append(sampled)
                if place == len(drafts) or sampled.token != drafts[place] or sampled.token in state.job.end_ids:
                    break
            answers.append(taken)
            at += len(drafts) + 1
        return answers
