"""One token out of one row of logits: the draw, and the log-probabilities beside it. Pure functions of their arguments.

A nucleus is found by partition, not by sorting the vocabulary: a row of 32064 logits costs a fifth of a millisecond.
"""

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.base import Logits
from pilothouse.messages import Sampling

FIRST_LOOK = 128  # a nucleus is nearly always within so many tokens; eight times more are looked at until it is
FAINTEST = 53 * np.log(2)  # a token e^-this times as likely as the likeliest is less than one step of a 53-bit draw: it is never looked at
WORD = (1 << 64) - 1


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
    temperature = max(sampling.temperature, 1e-30)
    reachable = np.flatnonzero(logits >= logits[best] - np.float32(min(FAINTEST * temperature, 1e30)))
    scaled = logits[reachable] - logits[best]  # the largest is 0: dividing by a tiny temperature can't overflow upwards
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(scaled / np.float32(temperature))
    if sampling.min_p > 0.0:
        weights[weights < np.float32(min(sampling.min_p, 1.0))] = 0.0  # the likeliest weighs 1
    if sampling.top_k <= 0 and sampling.top_p >= 1.0:
        return int(reachable[_pick(np.cumsum(weights, dtype=np.float64), chance)])
    places, reach = _likeliest(weights, sampling.top_k, sampling.top_p)
    if sampling.top_p < 1.0:
        whole = reach[-1] if sampling.top_k > 0 else weights.sum(dtype=np.float64)
        reach = reach[: int(np.searchsorted(reach, sampling.top_p * whole)) + 1]
    return int(reachable[places[_pick(reach, chance)]])


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
