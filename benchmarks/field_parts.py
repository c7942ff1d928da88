"""Ours beside the others, all in processes of their own: mixed load, decoding, prompts."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from parts import Numbers, Opened, Part
from peers.base import Peer
from peers.field import peer
from peers.loads import Told, even, mixed
from results import Figure

from pilothouse.engines import cpu

ROWS = 16
OURS = ("paged", "slots")
OPENVINO = ("openvino", "openvino f32")  # by itself it computes in bfloat16, where the CPU can
SAME_PRECISION = "the same, told to compute in f32 as ours does"


def _peers(names: Sequence[str], measure: Callable[[Peer, int], Numbers]) -> Opened:
    """Every block starts every arm anew, one after the other: where its memory comes to lie decides a tenth of an engine's speed."""
    facts: dict[str, Any] = {}

    def run(name: str, seed: int) -> Numbers:
        one = peer(name, rows=ROWS, threads=cpu.threads())
        try:
            one.start()
            one.run(even(-1, ROWS, 24, 4))  # every batch size once, and a whole chunk
            one.run(even(-2, 1, 512, 2))
            facts[name] = one.facts
            return measure(one, seed)
        finally:
            one.stop()

    return Opened(tuple(names), run, facts)


def _mixed(one: Peer, seed: int) -> Numbers:
    told = one.run(mixed(seed))
    return {"tokens_per_second": told.tokens_per_second, "ttft_p50": told.ttft_p50}


def _decode(one: Peer, seed: int) -> Numbers:
    """Medians: one row's answer takes less than a second, in which a machine's speed is not what it is in the next."""
    return {
        f"at_{rows}_rows": statistics.median(one.run(even(seed * 1000 + place * 100 + rows, rows, 16, 48)).steady for place in range(times))
        for rows, times in ((1, 5), (4, 3), (16, 1))
    }


def _prefill(one: Peer, seed: int) -> Numbers:
    told: list[Told] = [one.run(even(seed * 100 + place, 1, 512, 1)) for place in range(3)]
    return {"tokens_per_second": 512 / statistics.median(each.ttft_p50 for each in told)}


def _part(
    name: str, about: str, measure: Callable[[Peer, int], Numbers], names: Sequence[str], figures: list[Figure], seconds: int
) -> Part:
    return Part(name, about, lambda: nullcontext(_peers(names, measure)), figures, seconds)


def _beats(text: str, metric: str, other: str, goal: float, needs: str | None = "int8", ours: str = "auto") -> Figure:
    return Figure(text, (ours, metric), (other, metric), goal, needs=needs)


RATE = "tokens_per_second"
PARTS = [
    _part(
        "mixed", "24 requests at once (8 to 32 tokens in, 4 to 128 out), 16 rows", _mixed,
        (*OURS, *OPENVINO, "llama", "og-engine", "og-generator"),
        [
            _beats("auto over the better of paged and slots", RATE, "better", 0.95, None),
            _beats("auto over OpenVINO GenAI", RATE, "openvino", 1.0),
            _beats(SAME_PRECISION, RATE, "openvino f32", 1.0),
            _beats("auto over llama.cpp's server", RATE, "llama", 1.5),
            _beats("slots over llama.cpp's server", RATE, "llama", 1.0, "no int8", "slots"),
            _beats("auto over og.Engine", RATE, "og-engine", 2.5),
            _beats("auto over the serial Generator", RATE, "og-generator", 2.5),
            Figure("TTFT p50, auto over og.Engine", ("auto", "ttft_p50"), ("og-engine", "ttft_p50"), 1 / 3, at_least=False, needs="int8"),
        ], 70,
    ),
    _part(
        "decode", "answers only: 48 tokens after 16, tokens a second of all rows together", _decode, (*OURS, *OPENVINO, "llama"),
        [_beats(f"auto over the better of ours, {rows} rows", f"at_{rows}_rows", "better", 0.95, None) for rows in (1, 4, 16)]
        + [_beats(f"auto over OpenVINO GenAI, {rows} rows", f"at_{rows}_rows", "openvino", 1.0) for rows in (1, 4, 16)]
        + [_beats(f"{SAME_PRECISION}, {rows} rows", f"at_{rows}_rows", "openvino f32", 1.0) for rows in (1, 4, 16)],
        70,
    ),
    _part(
        "prefill", "one prompt of 512 tokens, tokens a second until the first answer", _prefill, (*OURS, *OPENVINO, "llama", "og-generator"),
        [
            _beats("auto over the better of ours", RATE, "better", 0.95, None),
            _beats("auto over OpenVINO GenAI", RATE, "openvino", 1.0),
            _beats(SAME_PRECISION, RATE, "openvino f32", 1.0),
        ],
        50,
    ),
]  # fmt: skip
