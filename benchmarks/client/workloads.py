"""Seeded requests: lengths, words and arrival times. The same seed gives the same schedule on every machine."""

import random
from collections.abc import Sequence
from dataclasses import replace

from client.answer import Asked

WORDS = (1000, 31000)  # ids that are words in every format of the slice
PLAIN = ("river", "stone", "cloud", "paper", "green", "window", "music", "seven", "garden", "summer", "bridge", "silver", "table", "winter")


def words(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(*WORDS) for _ in range(count)]


def lognormal(chance: random.Random, least: int = 4, most: int = 128) -> int:
    """An answer's length: around 30 tokens, most of them shorter than the mean."""
    return min(most, max(least, int(chance.lognormvariate(3.4, 0.8))))


def unlike(seed: int, count: int, prompt: int, tokens: int | None, plain: bool = False) -> list[Asked]:
    """`count` requests none of which begins like another; `tokens` None: lengths by `lognormal`. `plain`: text in place of ids."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        length = lognormal(chance) if tokens is None else tokens
        text = f"{number} " + " ".join(chance.choices(PLAIN, k=prompt - 1))
        found.append(Asked(text if plain else words(chance, prompt), length))
    return found


def poisson(requests: Sequence[Asked], rate: float, seed: int) -> list[Asked]:
    """The same requests, arriving at `rate` a second, independent of each other."""
    chance, at, found = random.Random(f"{seed} arrivals"), 0.0, []
    for one in requests:
        at += chance.expovariate(rate)
        found.append(replace(one, at=at))
    return found
