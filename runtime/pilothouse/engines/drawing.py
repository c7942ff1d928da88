"""Tokens out of rows of logits: the draw, and the log-probabilities beside it. A row's token depends on the row's own numbers alone.

The vocabulary is never sorted: a draw looks for the block of neighbours that it falls into, and only there for the token. A token beyond top-p's
nucleus is drawn a second time, and then from within; that needs the bins of like weights, and only two of them put in order. So most draws cost
one sum.
Rows are drawn several at a time: small calls of numpy cost more than what they do.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.base import Logits
from pilothouse.errors import EngineFailed
from pilothouse.messages import Sampling

BLOCK = 256  # neighbouring tokens that are summed up first
ROWS = 16  # that are drawn at once
LOOK = 4096  # tokens that are looked at first for whether a nucleus reaches as far as a token; then twice as many
BIN_BITS = 20  # of a weight's 32 that its bin leaves away: eight bins an octave
HALF = 2.0**-54  # half a step of a chance: added to it, so that what weighs less than that is never drawn
WORD = (1 << 64) - 1


Chances = tuple[float, float, float]


def chances(seed: int, choice: int, position: int, count: int = 1) -> list[Chances]:
    """The numbers in [0, 1) that decide the tokens from `position` of a choice on: Philox, keyed by seed and choice, counted by position."""
    philox = np.random.Philox(key=np.array([seed & WORD, choice & WORD], np.uint64), counter=position)
    words = philox.random_raw(4 * count).reshape(count, 4)[:, :3] >> np.uint64(11)  # a block of four for each position
    return [(first, second, third) for first, second, third in (words * 2.0**-53).tolist()]


class Drawer:
    """Draws from logits of one vocabulary. Keeps nothing but its scratch memory; not thread-safe for that."""

    def __init__(self, vocabulary: int) -> None:
        padded = -(-vocabulary // BLOCK) * BLOCK
        self._padded = np.zeros((ROWS, padded), np.float32)  # what pads weighs nothing
        self._weights = self._padded[:, :vocabulary]
        self._blocks = self._padded.reshape(ROWS, -1, BLOCK)
        self._begins = np.arange(0, padded, BLOCK)
        self._sums = np.zeros((ROWS, len(self._begins)), np.float32)

    def draw(self, rows: Sequence[Logits], samplings: Sequence[Sampling], chances: Sequence[Chances]) -> list[int]:
        """The token of each row of logits [vocabulary] that its chances fall on, after temperature (above 0), min-p, top-k and top-p, in this
        order. Raises `EngineFailed` where logits are not numbers.

        The first chance falls on tokens in order of id, with top-k on the candidates in order of probability. With top-p alone a token that is not
        in the nucleus is drawn again in the same way by the second chance, then by the third one from the nucleus in order of probability: each
        token of it comes as often as its weight says. Equal tokens stand in order of id, and at least the likeliest is always left.
        """
        tokens = list[int]()
        for at in range(0, len(rows), ROWS):
            some = slice(at, at + ROWS)
            tokens += self._some(rows[some], samplings[some], chances[some])
        return tokens

    def _some(self, rows: Sequence[Logits], samplings: Sequence[Sampling], chances: Sequence[Chances]) -> list[int]:
        with np.errstate(over="ignore", under="ignore"):
            for at, (logits, sampling) in enumerate(zip(rows, samplings, strict=True)):
                self._weigh(at, logits, sampling)
        weights, reach = self._weights[: len(rows)], self._sums[: len(rows)].cumsum(axis=1, dtype=np.float64)
        fallen = self._any(reach, np.array([first for first, _, _ in chances]))
        whole = reach[:, -1]
        out = whole - np.array([1.0 if sampling.top_k > 0 else sampling.top_p for sampling in samplings]) * whole
        tokens: list[int] = fallen.tolist()
        for at in _outside(weights, fallen, out):
            tokens[at] = self._again(at, reach[at], float(out[at]), samplings[at].top_p, chances[at])
        for at, sampling in enumerate(samplings):
            if sampling.top_k > 0:
                tokens[at] = _of_likeliest(weights[at], sampling, chances[at][0])
        return tokens

    def _weigh(self, at: int, logits: Logits, sampling: Sampling) -> None:
        """Write down how much each token weighs, the likeliest 1, and one that is out 0. One row after the other: it stays near that way."""
        row = self._weights[at]
        np.subtract(logits, logits[likeliest(logits)], out=row)  # the largest is 0: a tiny temperature can't overflow upwards
        if sampling.temperature != 1.0:
            np.multiply(row, 1.0 / max(sampling.temperature, 1e-30), out=row)
        np.exp(row, out=row)
        if sampling.min_p > 0.0:
            np.multiply(row, row >= np.float32(min(sampling.min_p, 1.0)), out=row)
        np.add.reduceat(self._padded[at], self._begins, out=self._sums[at])

    def _any(self, reach: NDArray[np.float64], chances: NDArray[np.float64]) -> NDArray[np.intp]:
        """For each row the id that its chance falls on, ids in their order; `reach`: the running sums of its blocks."""
        row, at = np.arange(len(reach)), (chances + HALF) * reach[:, -1]
        block = _picks(reach, at)
        inside = self._blocks[row, block].cumsum(axis=1, dtype=np.float64)
        inside += np.where(block, reach[row, block - 1], 0.0)[:, None]
        return block * BLOCK + _picks(inside, at)

    def _again(self, row: int, reach: NDArray[np.float64], out: float, top_p: float, chances: Chances) -> int:
        """The token of a row whose first one is not in the nucleus."""
        _, second, third = chances
        at = (second + HALF) * reach[-1]
        block = _pick(reach, at)
        token = block * BLOCK + _pick((reach[block - 1] if block else 0.0) + self._blocks[row, block].cumsum(dtype=np.float64), at)
        weights = self._weights[row]
        return token if _inside(weights, token, float(weights[token]), out) else _nucleus(weights, top_p, third)


def likeliest(logits: Logits) -> int:
    """The likeliest token of a row, the first of equal ones. Raises `EngineFailed` where logits are not numbers."""
    best = int(logits.argmax())  # finds a NaN first
    if not math.isfinite(logits.item(best)):
        raise EngineFailed
    return best


def _picks(reach: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.intp]:
    """The place in each row of running sums that its `at` falls on; never one of zero width."""
    places: NDArray[np.intp] = np.add.reduce(reach <= at[:, None], axis=1, dtype=np.intp)
    return places if places.max() < reach.shape[1] else np.minimum(places, np.add.reduce(reach < reach[:, -1:], axis=1, dtype=np.intp))


def _pick(reach: NDArray[np.float64], at: float) -> int:
    """The same in one row."""
    place = int(reach.searchsorted(at, side="right"))
    return place if place < len(reach) else int(reach.searchsorted(reach[-1]))


def _outside(weights: Logits, tokens: NDArray[np.intp], out: NDArray[np.float64]) -> list[int]:
    """The rows whose token is not in the nucleus, which leaves out `out` of their weight.

    A token is in it when it and all that stand behind it in order of probability weigh more than that. Those that are likely do so by themselves, and
    others with some more: few look through the whole vocabulary.
    """
    own = weights[np.arange(len(tokens)), tokens]
    behind = own.astype(np.float64)
    if (behind > out).all():
        return []
    part = weights[:, :LOOK]
    behind += np.add.reduce(part * (part < own[:, None]), axis=1)
    rest = np.flatnonzero(behind <= out).tolist()
    return [at for at in rest if not _inside(weights[at], int(tokens[at]), float(behind[at]), float(out[at]), LOOK)]


def _inside(weights: Logits, token: int, behind: float, out: float, begin: int = 0) -> bool:
    """The same for one row; `behind`: of the token and those before `begin`."""
    weight = weights[token]
    while behind <= out and begin < len(weights):
        part = weights[begin : begin + max(begin, LOOK)]
        behind += float(np.add.reduce(part * (part < weight)))
        begin += len(part)
    return behind > out or behind + float(weight) * int(np.count_nonzero(weights[token + 1 :] == weight)) > out


def _of_likeliest(weights: Logits, sampling: Sampling, chance: float) -> int:
    """The id that `chance` falls on among the `top_k` likeliest, of those the ones that hold `top_p` of their weight."""
    ids = _likeliest(weights, sampling.top_k)
    reach = np.cumsum(weights[ids], dtype=np.float64)
    if sampling.top_p < 1.0:
        reach = reach[: int(np.searchsorted(reach, sampling.top_p * reach[-1])) + 1]
    return int(ids[_pick(reach, (chance + HALF) * reach[-1])])


def _nucleus(weights: Logits, top_p: float, chance: float) -> int:
    """The id that `chance` falls on among the likeliest that hold `top_p` of the whole.

    Only two bins of like weights are put in order: the one in which the nucleus ends, and the one that is hit.
    """
    bins = weights.view(np.uint32) >> BIN_BITS  # rises with the weight, since none is negative
    reach = np.cumsum(np.bincount(bins, weights.astype(np.float64))[::-1])  # from the likeliest bin on
    heaviest, enough = len(reach) - 1, top_p * reach[-1]

    def opened(bin_: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        ids = _falling(weights, np.flatnonzero(bins == heaviest - bin_))
        return ids, (reach[bin_ - 1] if bin_ else 0.0) + np.cumsum(weights[ids], dtype=np.float64)

    last = min(int(np.searchsorted(reach, enough)), heaviest)
    ids, sums = opened(last)
    sums = sums[: int(np.searchsorted(sums, enough)) + 1]
    at = (chance + HALF) * sums[-1]
    hit = int(np.searchsorted(reach, at, side="right"))
    if hit < last:
        ids, sums = opened(hit)
    return int(ids[_pick(sums, at)])


def _likeliest(weights: Logits, count: int) -> NDArray[np.intp]:
    """The `count` likeliest ids by falling weight."""
    size = len(weights)
    look = min(count, size)
    ids = np.flatnonzero(weights >= np.partition(weights, size - look)[size - look]) if look < size else np.arange(size)
    return _falling(weights, ids)[:look]


def _falling(weights: Logits, ids: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rising `ids` by falling weight, equal ones still rising: one sort of integers, ten times faster than a stable argsort of floats."""
    bits = (weights[ids] + np.float32(0)).view(np.uint32).astype(np.uint64)  # adding 0 makes -0 a 0
    order = np.where(bits >> np.uint64(31), bits, bits ^ np.uint64(0x7FFFFFFF))  # falling floats as rising integers
    return np.sort((order << np.uint64(32)) | ids.astype(np.uint64)).astype(np.uint32).astype(np.intp)


def logprobs(logits: Logits, token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Natural log-probability of `token`, and the `count` likeliest ids with theirs."""
    peak = np.float64(logits.max())
    whole = peak + np.log(np.exp(logits.astype(np.float64) - peak).sum())
    ids = _likeliest(logits, count) if count > 0 else np.empty(0, np.intp)
    top = tuple((int(i), min(float(logits[i] - whole), 0.0)) for i in ids if logits[i] > -np.inf)
    return min(float(logits[token] - whole), 0.0), top
