"""Ours beside the others, all in processes of their own: mixed load, decoding, prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from parts import Numbers, Opened, Part
from peers.base import Peer
from peers.field import peer
from peers.loads import even, mixed
from results import Figure

from pilothouse.engines import cpu

ROWS = 16
OURS = ("paged", "slots")
OPENVINO = ("openvino", "openvino f32")  # by itself it computes in bfloat16, where the CPU can
SAME_PRECISION = "the same, told to compute in f32 as ours does"


def _field(names: Sequence[str], measure: Callable[[Peer, int], Numbers], turns: int) -> Opened:
    """Every block starts every arm anew: where its memory comes to lie decides a tenth of an engine's speed."""
    peers: dict[str, Peer] = {}
    facts: dict[str, Any] = {}

    @contextmanager
    def started() -> Iterator[None]:
        try:
            for name in names:
                peers[name] = peer(name, rows=ROWS, threads=cpu.threads())
                peers[name].start()
                peers[name].run(even(-1, ROWS, 24, 4))  # every batch size once, and a whole chunk
                peers[name].run(even(-2, 1, 512, 2))
                facts[name] = peers[name].facts
            yield
        finally:
            for one in peers.values():
                one.stop()
            peers.clear()

    return Opened(tuple(names), lambda arm, seed: measure(peers[arm], seed), facts, started, turns)


def _mixed(one: Peer, seed: int) -> Numbers:
    told = one.run(mixed(seed))
    return {"tokens_per_second": told.tokens_per_second, "ttft_p50": told.ttft_p50}


def _decode(one: Peer, seed: int) -> Numbers:
    return {f"at_{rows}_rows": one.run(even(seed * 100 + rows, rows, 16, 48)).steady for rows in (1, 4, 16)}


def _single(one: Peer, seed: int) -> Numbers:
    return {"at_1_rows": one.run(even(seed, 1, 16, 48)).steady}


def _prefill(one: Peer, seed: int) -> Numbers:
    return {"tokens_per_second": 512 / one.run(even(seed, 1, 512, 1)).ttft_p50}


def _prompts(one: Peer, seed: int) -> Numbers:
    told = one.run(even(seed, 8, 512, 16))
    return {"tokens_per_second": 8 * 512 / told.seconds, "ttft_p50": told.ttft_p50}


def _length(one: Peer, seed: int) -> Numbers:
    return {f"of_{tokens}": one.run(even(seed * 1000 + tokens, 1, tokens, 1)).ttft_p50 for tokens in LENGTHS}


def _part(
    name: str,
    about: str,
    measure: Callable[[Peer, int], Numbers],
    names: Sequence[str],
    figures: list[Figure],
    seconds: int,
    turns: int = 1,
) -> Part:
    return Part(name, about, lambda: nullcontext(_field(names, measure, turns)), figures, seconds)


def _beats(text: str, metric: str, other: str, goal: float, needs: str | None = "int8", ours: str = "auto") -> Figure:
    return Figure(text, (ours, metric), (other, metric), goal, needs=needs)


LENGTHS = (24, 48, 80, 160)
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
        ], 90,
    ),
    _part(
        "decode", "answers only: 48 tokens after 16, tokens a second of all rows together", _decode, (*OURS, *OPENVINO, "llama"),
        [_beats(f"auto over the better of ours, {rows} rows", f"at_{rows}_rows", "better", 0.95, None) for rows in (1, 4, 16)]
        + [_beats(f"auto over OpenVINO GenAI, {rows} rows", f"at_{rows}_rows", "openvino", 1.0) for rows in (1, 4, 16)]
        + [_beats(f"{SAME_PRECISION}, {rows} rows", f"at_{rows}_rows", "openvino f32", 1.0) for rows in (1, 4, 16)],
        110, turns=4,
    ),
    _part(
        "single", "one answer alone: 48 tokens after 16; sixteen answers of each in turn", _single, (*OURS, *OPENVINO, "llama"),
        [
            _beats("auto over the better of ours", "at_1_rows", "better", 0.95, None),
            _beats("auto over OpenVINO GenAI", "at_1_rows", "openvino", 1.0),
            _beats(SAME_PRECISION, "at_1_rows", "openvino f32", 1.0),
        ],
        90, turns=16,
    ),
    _part(
        "prefill", "one prompt of 512 tokens, tokens a second until the first answer", _prefill, (*OURS, *OPENVINO, "llama", "og-generator"),
        [
            _beats("auto over the better of ours", RATE, "better", 0.95, None),
            _beats("auto over OpenVINO GenAI", RATE, "openvino", 1.0),
            _beats(SAME_PRECISION, RATE, "openvino f32", 1.0),
        ],
        60, turns=3,
    ),
    _part(
        "prompts", "8 prompts of 512 tokens at once, answers of 16: tokens of prompts a second until the last answer's end", _prompts,
        (*OURS, *OPENVINO, "llama"),
        [
            _beats("auto over the better of ours", RATE, "better", 0.95, None),
            _beats("auto over OpenVINO GenAI", RATE, "openvino", 1.0),
            _beats(SAME_PRECISION, RATE, "openvino f32", 1.0),
            _beats("auto over llama.cpp's server", RATE, "llama", 1.5),
        ], 120,
    ),
    _part(
        "length", "one short prompt, seconds until the first answer by its length", _length, (*OURS, *OPENVINO, "llama"),
        [
            Figure(f"{text}, {tokens} tokens", ("auto", f"of_{tokens}"), (other, f"of_{tokens}"), 1.0, at_least=False, needs="int8")
            for text, other in (("auto over OpenVINO GenAI", "openvino"), (SAME_PRECISION, "openvino f32"))
            for tokens in LENGTHS
        ], 40, turns=6,
    ),
]  # fmt: skip
