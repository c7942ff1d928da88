"""What is asked, as data. Every arm of a point gets the same requests, at the same times where there is a schedule; each block has a seed of its own."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from client import workloads
from client.answer import Answer, Asked
from client.summary import Numbers, figures, gaps, percentiles
from client.workloads import words

from pilothouse.engines import cpu

BF16 = "bf16" in cpu.features()  # OpenVINO computes in bf16 there, unless it is told not to: both of us both ways
OURS, OPENVINO = (("pilothouse", "pilothouse bf16"), ("openvino", "openvino f32")) if BF16 else (("pilothouse",), ("openvino",))
FIELD = (*OURS, "llama.cpp", *OPENVINO, "og.Engine", "og.Generator", "mlflow")
STREAMING = (*OURS, "llama.cpp", *OPENVINO)
SLOW = ("mlflow stock", "mlserver", "transformers")  # only where they are compared: minutes of waiting
ONE_CORE = "@1"  # behind an arm's name: one thread, on one core
SLOS = ((1.0, 0.05), (2.0, 0.1))


@dataclass(frozen=True)
class Point:
    """`clients` None: the requests' own times. `rate_share`: Poisson, at that share of what Pilothouse answered at most in S2."""

    label: str
    make: Callable[[int], list[Asked]]
    arms: Sequence[str]
    clients: int | None = None
    rate_share: float | None = None
    read: Callable[[Sequence[Answer]], Numbers] = field(default=partial(figures, slos=SLOS))


@dataclass(frozen=True)
class Scenario:
    id: str
    title: str
    about: str
    quick: Sequence[Point]
    full: Sequence[Point]
    shown: Sequence[str]  # metrics of its table


def _even(count: int, prompt: int, tokens: int | None) -> Callable[[int], list[Asked]]:
    return lambda seed: workloads.unlike(seed, count, prompt, tokens)


def _sweep(clients: int, least: int, times: int, arms: Sequence[str] = FIELD) -> Point:
    read = partial(figures, slos=SLOS, ramp=clients)
    return Point(
        f"{clients} clients" if clients > 1 else "1 client", _even(max(least, times * clients), 64, None), arms, clients, read=read
    )


def _rate(share: float, count: int) -> Point:
    return Point(f"{share:.0%}", _even(count, 64, None), (*STREAMING, "og.Engine"), None, share)


# -- shared prefixes ----------------------------------------------------------------------------------------------------------


def _prefixes(prefixes: int, turns: int) -> Callable[[int], list[Asked]]:
    """Every prefix of 512 tokens once, then each again with 32 new ones; and as many prompts of which nothing is shared."""

    def make(seed: int) -> list[Asked]:
        chance = random.Random(f"{seed} prefixes")
        systems = [words(chance, 512) for _ in range(prefixes)]
        cold = [Asked(system + words(chance, 32), 8, group="cold") for system in systems]
        hits = [Asked(system + words(chance, 32), 8, group="hit") for _ in range(turns) for system in systems]
        return [*cold, *hits]

    return make


def _by_group(answers: Sequence[Answer]) -> Numbers:
    told = figures(answers)
    for group in sorted({one.group for one in answers}):
        mine = [one for one in answers if one.group == group and one.whole]
        told |= {f"{group}_{name}": value for name, value in percentiles("ttft", [one.ttft for one in mine]).items()}
        told[f"{group}_cached"] = sum(one.cached for one in mine) / max(1, sum(one.prompt for one in mine))
    return told


# -- a long prompt, a long answer -----------------------------------------------------------------------------------------------


def _long_prompt(seed: int) -> list[Asked]:
    """8 answers, and after 4 s a prompt of 2048 tokens."""
    chance = random.Random(f"{seed} long prompt")
    streams = [Asked(words(chance, 16), 256, group="stream") for _ in range(8)]
    return [*streams, Asked(words(chance, 2048), 8, at=4.0, group="long")]


def _beside(answers: Sequence[Answer]) -> Numbers:
    streams = [one for one in answers if one.group == "stream" and one.whole]
    long = next((one for one in answers if one.group == "long" and one.whole), None)
    told = figures(answers)
    if long is None or not streams:
        return told
    began = max(one.events[0] for one in streams)
    quiet, loud = gaps(streams, began, long.sent), gaps(streams, long.sent, long.events[0])
    told |= {f"quiet_{name}": value for name, value in percentiles("itl", quiet).items()}
    told |= {f"beside_{name}": value for name, value in percentiles("itl", loud).items()} | {"long_ttft": long.ttft}
    if quiet and loud:
        told["itl_p95_ratio"] = told["beside_itl_p95"] / told["quiet_itl_p95"]
    return told


def _hog(seed: int) -> list[Asked]:
    """An answer of 100 tokens, and half a second later seven short requests."""
    chance = random.Random(f"{seed} hog")
    return [Asked(words(chance, 16), 100, group="hog"), *(Asked(words(chance, 16), 8, at=0.5, group="short") for _ in range(7))]


# -- clients that leave -----------------------------------------------------------------------------------------------------------


def _storm(leaving: int) -> Callable[[int], list[Asked]]:
    """8 answers of 96 tokens, and as many that are left after 1 to 10 events."""

    def make(seed: int) -> list[Asked]:
        chance = random.Random(f"{seed} storm")
        staying = [Asked(words(chance, 16), 96, group="staying") for _ in range(8)]
        return [*staying, *(Asked(words(chance, 16), 96, leave=chance.randint(1, 10), group="leaving") for _ in range(leaving))]

    return make


def _survivors(answers: Sequence[Answer]) -> Numbers:
    """Events a second of those who stay, from the last departure (or the last first event) to the first end."""
    staying = [one for one in answers if one.group == "staying" and one.whole]
    told = figures(answers)
    if len(staying) > 1:
        begin = max([one.events[0] for one in staying] + [one.end for one in answers if one.left])
        end = min(one.events[-1] for one in staying)
        if end > begin:
            told["survivors_per_second"] = sum(begin < at <= end for one in staying for at in one.events) / (end - begin)
    return told


# -- lengths and cores ------------------------------------------------------------------------------------------------------------


def _lengths(count: int) -> list[Point]:
    """One of both lengths grows while the other stands; then the same load on all cores and on one."""
    prompts = [Point(f"{prompt} in, 16 out", _even(count, prompt, 16), FIELD, 1) for prompt in (16, 256, 1024)]
    answers = [Point(f"64 in, {tokens} out", _even(count, 64, tokens), FIELD, 1) for tokens in (16, 256)]
    cores = [Point("4 clients", _even(4 * count, 64, 32), STREAMING, 4)]
    cores += [Point("4 clients, one core", _even(4 * count, 64, 32), [f"{name}{ONE_CORE}" for name in STREAMING], 4)]
    return [*prompts, *answers, *cores]


SPEED = ("tokens_per_second", "ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95", "itl_p95")
LATER = ("pilothouse", "llama.cpp", "openvino", "og.Engine")
SCENARIOS = {
    one.id: one
    for one in (
        Scenario(
            "S1", "One stream", "one client, 64 tokens in, 128 out",
            [Point("1 client", _even(3, 64, 128), FIELD, 1)], [Point("1 client", _even(20, 64, 128), FIELD, 1)], SPEED,
        ),
        Scenario(
            "S2", "More and more clients", "closed loop, 64 tokens in, lognormal 4 to 128 out; two requests a client, those of mlflow stock, mlserver and transformers one",
            [_sweep(1, 4, 1), _sweep(4, 4, 3), _sweep(16, 4, 2), _sweep(16, 4, 1, SLOW)],
            [*(_sweep(clients, 20, 4) for clients in (1, 2, 4, 8, 16, 32, 64)), _sweep(16, 20, 4, SLOW)], SPEED,
        ),
        Scenario(
            "S3", "More and more requests a second", "Poisson arrivals at a share of what Pilothouse answered at most in S2, 64 tokens in, "
            "lognormal 4 to 128 out; goodput is requests a second that meet 1 s to the first token and 50 ms a token, and 2 s and 100 ms",
            [_rate(0.5, 30), _rate(0.9, 45)], [_rate(share, 400) for share in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)],
            ("requests_per_second", "goodput_1000_50", "goodput_2000_100", "ttft_p50", "ttft_p95", "tpot_p50", "tpot_p95"),
        ),
        Scenario(
            "S4", "Shared prefixes", "prompts of 544 tokens, one at a time, 8 out: none seen before, and 512 of them seen before; OpenVINO's pipeline does not say what it reused",
            [Point("512 + 32", _prefixes(3, 2), STREAMING, 1, read=_by_group)],
            [Point("512 + 32", _prefixes(4, 8), STREAMING, 1, read=_by_group)], ("cold_ttft_p50", "hit_ttft_p50", "hit_cached"),
        ),
        Scenario(
            "S5", "Behind something long", "8 answers beside a prompt of 2048 tokens; seven short requests behind an answer of 100 tokens",
            [Point("long prompt", _long_prompt, STREAMING, read=_beside), Point("long answer", _hog, LATER, read=_by_group)],
            [Point("long prompt", _long_prompt, STREAMING, read=_beside), Point("long answer", _hog, LATER, read=_by_group)],
            ("quiet_itl_p95", "beside_itl_p95", "itl_p95_ratio", "long_ttft", "short_ttft_p50", "short_ttft_p95"),
        ),
        Scenario(
            "S6", "Clients that leave", "8 answers of 96 tokens alone, and beside 8 more whose clients hang up after 1 to 10 tokens",
            [Point("alone", _storm(0), STREAMING, read=_survivors), Point("storm", _storm(8), STREAMING, read=_survivors)],
            [Point("alone", _storm(0), STREAMING, read=_survivors), Point("storm", _storm(8), STREAMING, read=_survivors)],
            ("survivors_per_second",),
        ),
        Scenario(
            "S12", "Longer prompts, longer answers, one core", "one client, two requests: prompts of 16 to 1024 tokens with 16 out, answers of 16 to 256 tokens to 64; "
            "four clients with both cores, and with one of them and one thread",
            _lengths(2), _lengths(10), SPEED,
        ),
    )
}  # fmt: skip
