"""Others' engines behind one seam, `Steps`, and the two ways of driving them: a schedule in process, or HTTP (thin_server).

Runs in every peer's own environment: the standard library, nothing else.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from loads import Request, Told


class Steps(Protocol):
    """An engine that is stepped. Requests have numbers; none is used twice."""

    def add(self, number: int, request: Request) -> None:
        """Take a request; it may wait inside."""

    def step(self) -> list[tuple[int, list[int]]]:
        """Compute once; the new tokens of every request that got any."""

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""


def drive(steps: Steps, requests: Sequence[Request], clients: int | None = None) -> Told:
    """All requests at their times; with `clients`, so many at once, each following one that has ended."""
    waiting, open_ = deque(enumerate(requests)), dict[int, int]()
    times: list[list[float]] = [[] for _ in requests]
    sent = [0.0] * len(requests)
    began = time.perf_counter()
    while waiting or open_:
        now = time.perf_counter() - began
        while waiting and (len(open_) < clients if clients else waiting[0][1].at <= now):
            index, request = waiting.popleft()
            sent[index] = now if clients else request.at
            open_[index] = request.tokens
            steps.add(index, request)
        if not steps.busy and not waiting:
            raise RuntimeError(f"{len(open_)} requests were never finished")
        if not steps.busy:
            time.sleep(max(0.0, waiting[0][1].at - (time.perf_counter() - began)))
            continue
        told = steps.step()
        now = time.perf_counter() - began
        for index, tokens in told:
            times[index].extend([now] * len(tokens))
            open_[index] -= len(tokens)
            if open_[index] <= 0:
                del open_[index]
    return Told(times, time.perf_counter() - began, sent)
