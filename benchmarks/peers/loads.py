"""What is asked of an engine, and what came of it: plain values that go through a pipe, for interpreters of every environment."""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

WORDS = (1000, 31000)  # ids that are words in every format of the slice


@dataclass(frozen=True)
class Request:
    """`tokens` are to be answered after `prompt`, no more and no less, greedily; `at` seconds after the start."""

    prompt: list[int]
    tokens: int
    at: float = 0.0


@dataclass(frozen=True)
class Told:
    """`times[i]` are the seconds from the start to each token of request i, `sent[i]` to its sending (none: at once); `seconds` to the last of all."""

    times: list[list[float]]
    seconds: float
    sent: list[float] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        return sum(map(len, self.times)) / self.seconds

    @property
    def ttft_p50(self) -> float:
        return statistics.median(times[0] for times in self.times)

    @property
    def steady(self) -> float:
        """Tokens a second while all of the requests were answering: each one's own rate then, summed up."""
        begin, end = max(times[0] for times in self.times), min(times[-1] for times in self.times)
        within = [[at for at in times if begin <= at <= end] for times in self.times]
        return sum((len(times) - 1) / (times[-1] - times[0]) for times in within if len(times) > 1)

    def gaps(self, begin: float = 0.0, end: float = float("inf")) -> list[float]:
        """Seconds between tokens that follow each other in one answer, where the later one came within begin..end."""
        return [later - at for times in self.times for at, later in pairwise(times) if begin < later <= end]


def mixed(seed: int, count: int = 24) -> list[Request]:
    """Prompts of 8 to 32 tokens, answers lognormal around 30, 4 to 128; no prompt begins like another."""
    chance = random.Random(seed)
    return [
        Request(words(chance, chance.randint(8, 32)), min(128, max(4, int(chance.lognormvariate(3.4, 0.8)))))
        for _ in range(count)
    ]  # fmt: skip


def even(seed: int, count: int, prompt: int, tokens: int) -> list[Request]:
    """`count` requests of one size."""
    chance = random.Random(seed)
    return [Request(words(chance, prompt), tokens) for _ in range(count)]


def words(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(*WORDS) for _ in range(count)]


def dumped(requests: Sequence[Request], clients: int | None) -> str:
    return json.dumps({"clients": clients, "requests": [[one.prompt, one.tokens, one.at] for one in requests]})


def loaded(line: str) -> tuple[list[Request], int | None]:
    told = json.loads(line)
    return [Request(*one) for one in told["requests"]], told["clients"]
