"""The goals, each a ratio that is read from what is kept. Where one is missed, why is written in reasons.json beside the figures."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import machine
from client.summary import Numbers
from results import Range, spread

from compared import ratios
from compared.ratios import Value

Found = Mapping[str, Sequence[Value]]  # by scenario
Parts = Mapping[str, Any]
MET = "yes"
IRRELEVANT = ""


@dataclass(frozen=True)
class Goal:
    """`read` gives the figure, or nothing where it was not measured. `needs`: "int8" where it is only promised with int8 dot products,
    "bf16" where there is nothing to tell without that."""

    id: str
    text: str
    goal: float
    read: Callable[[Found, Parts], Range | None]
    at_least: bool = True
    needs: str = ""

    @property
    def wanted(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.goal:.3g}"

    def judge(self, found: Found, parts: Parts, features: Collection[str]) -> tuple[Range | None, str]:
        """The figure, and a word on it."""
        if self.needs == "bf16" and not {"bf16", "amx"} & set(features):
            return None, IRRELEVANT
        told = self.read(found, parts)
        if told is None:
            return None, "not measured"
        if self.needs == "int8" and not {"vnni", "amx"} & set(features):
            return told, "not promised here"
        return told, MET if (told.median >= self.goal if self.at_least else told.median <= self.goal) else "NO"


def _beside(scenario: str, point: str, metric: str, arm: str) -> Callable[[Found, Parts], Range | None]:
    def read(found: Found, parts: Parts) -> Range | None:
        mine = found.get(scenario, ())
        return ratios.ratio(ratios.of(mine, point, "pilothouse", metric), ratios.of(mine, point, arm, metric))

    return read


def _within(scenario: str, point: str, over: str, under: str, other: str = "") -> Callable[[Found, Parts], Range | None]:
    """Two metrics of ours; `other`: the point of the one below, where it is another."""

    def read(found: Found, parts: Parts) -> Range | None:
        mine = found.get(scenario, ())
        return ratios.ratio(ratios.of(mine, point, "pilothouse", over), ratios.of(mine, other or point, "pilothouse", under))

    return read


def _single(values: Sequence[float]) -> Range | None:
    return spread(list(values)) if values else None


def _layer(kind: str, metric: str, worst: Callable[[Sequence[float]], float], *elder: str) -> Callable[[Found, Parts], Range | None]:
    """OpenAI's SSE over the bare loop, at the number of clients whose median `worst` chooses, of those that grow; the first of `elder` that
    there is where it was not measured."""

    def read(found: Found, parts: Parts) -> Range | None:
        told = [row for row in parts.get("S7", {}).get(kind, ()) if row["arm"] == "+ OpenAI SSE"]
        rows = [next(row[one] for one in (metric, *elder) if one in row) for row in told]
        if not rows:
            return None
        row: Numbers = next(row for row in rows if row["median"] == worst([one["median"] for one in rows]))
        return Range(row["median"], row["least"], row["most"], 1 if row["least"] == row["most"] else 2)

    return read


def _last(medians: Sequence[float]) -> float:
    """That of the most clients."""
    return medians[-1]


def _hot(parts: Parts, name: str) -> list[Mapping[str, Any]]:
    """Starts with files in the page cache that neighbours left alone."""
    rows = parts.get("S8", {}).get("starts", {}).get(name, ())
    return [row for row in rows if row["hot"] and not row["failed"] and row["others"] <= machine.VOID]


def _start(over: str, under: str) -> Callable[[Found, Parts], Range | None]:
    def read(found: Found, parts: Parts) -> Range | None:
        both = zip(_hot(parts, over), _hot(parts, under), strict=False)
        return _single([mine["ready"] / other["ready"] for mine, other in both])

    return read


def _first_token(found: Found, parts: Parts) -> Range | None:
    return _single([row["first"] / row["again"] for row in _hot(parts, "pilothouse")])


def _chats(found: Found, parts: Parts) -> Range | None:
    told = parts.get("S9")
    return _single([told["paged, fp16"]["chats"] / told["og.Engine, fp32"]["chats"]]) if told else None


FULL = "16 clients"
RATE = "tokens_per_second"
GOALS = (
    Goal("G1", "tokens/s at 16 clients over og.Engine", 2.5, _beside("S2", FULL, RATE, "og.Engine"), needs="int8"),
    Goal("G1", "tokens/s at 16 clients over the serial Generator", 2.5, _beside("S2", FULL, RATE, "og.Generator"), needs="int8"),
    Goal("G2", "TTFT p50 at 16 clients over og.Engine's", 0.2, _beside("S2", FULL, "ttft_p50", "og.Engine"), at_least=False),
    Goal("G2", "TTFT p50 at half the load over og.Engine's", 1 / 3, _beside("S3", "50%", "ttft_p50", "og.Engine"), at_least=False),
    Goal("G3", "tokens/s of OpenAI's SSE over the bare loop, at its worst number of clients", 0.98, _layer("rows", "shadowed", min, "replayed", "of_bare")),
    Goal("G3", "TTFT p50 of OpenAI's SSE over the bare loop, ms, at its worst", 2.0, _layer("fixed", "ttft_over_bare_ms", max), at_least=False),
    Goal("G3", "CPU of a streamed token of OpenAI's SSE over the bare loop's, us, at 32 clients", 30.0, _layer("fixed", "cpu_us_of_a_token", _last), at_least=False),
    Goal("G4", "tokens/s at 16 clients over mlflow models serve as it comes", 3.0, _beside("S2", FULL, RATE, "mlflow stock")),
    Goal("G4", "tokens/s at 16 clients over mlflow models serve with all threads", 2.0, _beside("S2", FULL, RATE, "mlflow")),
    Goal("G4", "TTFT p50 at 16 clients over mlflow models serve's", 0.05, _beside("S2", FULL, "ttft_p50", "mlflow"), at_least=False),
    Goal("G5", "TTFT of 512 shared and 32 new tokens over cold", 0.1, _within("S4", "512 + 32", "hit_ttft_p50", "cold_ttft_p50"), at_least=False),
    Goal("G6", "ITL p95 beside a prompt of 2048 tokens over quiet", 1.5, _within("S5", "long prompt", "beside_itl_p95", "quiet_itl_p95"), at_least=False),
    Goal("G7", "tokens/s of those who stay in a cancel storm over alone", 0.95, _within("S6", "storm", "survivors_per_second", "survivors_per_second", "alone")),
    Goal("G8", "ready after exec over mlflow models serve", 0.4, _start("pilothouse", "mlflow"), at_least=False),
    Goal("G8", "first answer after ready over a warm one", 1.1, _first_token, at_least=False),
    Goal("G9", "chats of 512 tokens over og.Engine's in its memory", 8.0, _chats),
    Goal("G10", "tokens/s at 16 clients over llama.cpp's server", 1.5, _beside("S2", FULL, RATE, "llama.cpp"), needs="int8"),
    Goal("G10", "tokens/s at 16 clients over OpenVINO GenAI", 1.0, _beside("S2", FULL, RATE, "openvino"), needs="int8"),
    Goal("G10", "the same, told to compute in f32", 1.0, _beside("S2", FULL, RATE, "openvino f32"), needs="bf16"),
)  # fmt: skip
