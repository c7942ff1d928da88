"""One token out of one row of logits: the draw, and the log-probabilities beside it. Pure functions of their arguments.

The vocabulary is never sorted: a draw looks for the block of neighbours that it falls into, and only there for the token. A token beyond top-p's
nucleus is drawn again from within; that needs the bins of like weights, and only two of them put in order. So most draws cost two sums.
"""

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.base import Logits
from pilothouse.messages import Sampling

BLOCK = 256  # neighbouring tokens that are summed up first
BIN_BITS = 20  # of a weight's 32 that its bin leaves away: eight bins an octave
FAINTEST = 2.0**-53  # a token that is so much less likely than the likeliest is less than one step of a 53-bit draw: it is never looked at
WORD = (1 << 64) - 1


Chances = tuple[float, float]


def chances(seed: int, choice: int, position: int, count: int = 1) -> list[Chances]:
    """The numbers in [0, 1) that decide the tokens from `position` of a choice on: Philox, keyed by seed and choice, counted by position."""
    philox = np.random.Philox(key=np.array([seed & WORD, choice & WORD], np.uint64), counter=position)
    words = philox.random_raw(4 * count).reshape(count, 4)[:, :2] >> np.uint64(11)  # a block of four for each position
    return [(first, second) for first, second in (words * 2.0**-53).tolist()]


def draw(logits: Logits, sampling: Sampling, chances: Chances, best: int | None = None) -> int:
    """The token of `logits` [vocabulary] that `chances` fall on, after temperature, min-p, top-k and top-p, in this order. `best`: the likeliest
    one, where it is known.

    The first chance falls on tokens in order of id, with top-k on the candidates in order of probability. With top-p alone a token that is not in
    the nucleus is drawn again by the second one, from the nucleus in order of probability: each token of it comes as often as its weight says.
    Equal tokens stand in order of id, and at least the likeliest is always left.
    """
    if best is None:
        best = int(logits.argmax())
    if sampling.temperature <= 0.0:
        return best
    weights = logits - logits[best]  # the largest is 0: dividing by a tiny temperature can't overflow upwards
    with np.errstate(over="ignore", under="ignore"):
        weights /= np.float32(max(sampling.temperature, 1e-30))
        np.exp(weights, out=weights)
    seen = weights >= np.float32(min(max(sampling.min_p, FAINTEST), 1.0))  # the likeliest weighs 1
    if not seen.all():
        weights *= seen
    if sampling.top_k > 0:
        ids = _likeliest(weights, sampling.top_k)
        reach = np.cumsum(weights[ids], dtype=np.float64)
        if sampling.top_p < 1.0:
            reach = reach[: int(np.searchsorted(reach, sampling.top_p * reach[-1])) + 1]
        return int(ids[_pick(reach, chances[0] * reach[-1])])
    token, whole = _any(weights, chances[0])
    if sampling.top_p < 1.0 and _heavier(weights, token) >= sampling.top_p * whole:
        return _nucleus(weights, sampling.top_p, chances[1])
    return token


def _pick(reach: NDArray[np.float64], at: float) -> int:
    """The place that `at` falls on in running sums; never one of zero width."""
    place = int(np.searchsorted(reach, at, side="right"))
    return place if place < len(reach) else int(np.searchsorted(reach, reach[-1]))


def _any(weights: Logits, chance: float) -> tuple[int, float]:
    """The id that `chance` falls on, ids in their order; and the whole weight."""
    reach = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)), dtype=np.float64)
    at = chance * reach[-1]
    block = _pick(reach, at)
    before = reach[block - 1] if block else 0.0
    begin = block * BLOCK
    return begin + _pick(before + np.cumsum(weights[begin : begin + BLOCK], dtype=np.float64), at), float(reach[-1])


def _heavier(weights: Logits, token: int) -> float:
    """The weight of all tokens that stand before `token` in order of probability."""
    weight = weights[token]
    equal = np.count_nonzero(weights[:token] == weight)
    return float((weights * (weights > weight)).sum()) + equal * float(weight)


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
    at = chance * sums[-1]
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
