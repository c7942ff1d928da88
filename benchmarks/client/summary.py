"""Figures of a run, by the definitions that docs/benchmarks.md gives."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from client.answer import Answer
from client.driving import Run, late

Numbers = dict[str, float]
TAIL = 500  # samples from which on a 99th percentile says something


def percentiles(name: str, values: Sequence[float]) -> Numbers:
    """Median and 95th, and the 99th where there are enough; seconds."""
    if not values:
        return {}
    wanted = (50, 95, 99) if len(values) >= TAIL else (50, 95)
    return {f"{name}_p{at}": float(np.percentile(values, at)) for at in wanted}


def gaps(answers: Sequence[Answer], begin: float = 0.0, end: float = float("inf")) -> list[float]:
    """Seconds between events that follow each other in one answer, where the later one came within begin..end."""
    return [later - at for one in answers for at, later in pairwise(one.events) if begin < later <= end]


def figures(answers: Sequence[Answer], slos: Sequence[tuple[float, float]] = (), ramp: int = 0) -> Numbers:
    """Of the answers that are whole. A goodput for each (TTFT, TPOT) in seconds: requests a second that meet both.

    `ramp`: so many requests, the first ones, are left out of the latencies where others remain: they all came at once.
    """
    whole = [one for one in answers if one.whole]
    told: Numbers = {"requests": len(whole), "failed": sum(bool(one.failure) for one in answers), "late": late(answers)}
    if not whole:
        return told
    seconds = max(one.end for one in whole) - min(one.sent for one in whole)
    steady = [one for one in whole if one.number >= ramp] or whole
    paces = [pace for one in steady if (pace := one.tpot) is not None]
    told |= {"tokens_per_second": sum(one.tokens for one in whole) / seconds, "requests_per_second": len(whole) / seconds}
    told |= percentiles("ttft", [one.ttft for one in steady]) | percentiles("tpot", paces) | percentiles("itl", gaps(steady))
    told |= percentiles("e2e", [one.e2e for one in steady])
    prompts = sum(one.prompt for one in whole)
    if prompts:
        told["cached_share"] = sum(one.cached for one in whole) / prompts
    for ttft, tpot in slos:
        good = sum(one.ttft <= ttft and (one.tpot or 0.0) <= tpot for one in whole)
        told[f"goodput_{ttft * 1000:g}_{tpot * 1000:g}"] = good / seconds
    return told


def verdict(run: Run) -> str:
    """Why the run's figures do not count, or nothing."""
    failed = [one for one in run.answers if one.failure]
    if failed:
        return f"{len(failed)} of {run.wanted} failed, the first: {failed[0].failure}"
    if run.interrupted or len(run.answers) < run.wanted:
        return f"stopped after {len(run.answers)} of {run.wanted}"
    return ""
