"""The tables of the scenarios that are no load."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from results import spread

Told = dict[str, Any]

BARE = "bare loop"
OF_BARE = {
    "shadowed": (
        "of bare, same steps",
        "the bare loop is the arm's shadow (benchmarks/shadow.py), and takes the very same steps, ten of each in turn; clients over HTTP read ten "
        "times a second, for to read is theirs, on machines of their own",
    ),
    "replayed": (
        "of bare, same arrivals",
        "the bare loop got requests as long at the same times, in a run after the arm's; it may take other steps",
    ),
    "of_bare": (
        "of bare, closed loop",
        "in another run, and the next request came in the very step in which an answer ended: a client has to hear of that first, and "
        "waits for a step then, one of the 48 that an answer takes here",
    ),
}


def _range(told: Told, form: str = "{:.3g}") -> str:
    """A median and its range; of one block the value alone."""
    if told["least"] == told["most"]:
        return form.format(told["median"])
    return f"{form} ({form} to {form})".format(told["median"], told["least"], told["most"])


def layers(told: Told) -> list[str]:
    lines = [
        "`scripts/bench-layers`: our own bare loop, on the engine that the server lends it, and what each layer adds. Of its tokens a second:",
        *(f"- {title}: {meaning}" for metric, (title, meaning) in OF_BARE.items() if any(metric in row for row in told["rows"])), "",
        "The goal is judged by the first that was measured. Where a second number of blocks stands, so many short runs of OpenAI's SSE with its shadow",
        "came after the blocks.",
    ]  # fmt: skip
    told_of = [metric for metric in OF_BARE if any(metric in row for row in told["rows"])]
    titles = "".join(f" {OF_BARE[metric][0]} |" for metric in told_of)
    head = ["", f"| clients | arm | blocks, runs | tokens/s |{titles}", "|---|---|---|---|" + "---|" * len(told_of)]
    lines += head if told["rows"] else ["On the slice: not kept."]
    for row in told["rows"]:  # those of before had two blocks, and did not say so
        cells = [_range(row[metric]) if metric in row and row["arm"] != BARE else "" for metric in told_of]
        lines.append(
            f"| {row['clients']} | {row['arm']} | {row.get('blocks', 2)}, {row.get('turns', 0)} | {row['tokens_per_second']['median']:.1f} | {' | '.join(cells)} |"
        )
    lines += [
        "", "The same with an engine that computes nothing and takes 5 ms for a step (`--model scripted:5`): here the layers are all that differs. The",
        "time to the first token is of arrivals fixed in advance, over that of a bare loop that gets the same ones; CPU is the server's, the bare",
        f"loop's subtracted, parted by answers of 48 and of {told.get('long', '192')} tokens into what a request costs and what each token of its answer adds. With one client every",
        "token wakes the server up by itself, and what the request costs drowns in that.", "",
        "| clients | arm | TTFT over bare, ms | CPU over bare of a request, us | of each of its tokens, us |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in told.get("fixed", ()):
        if row["arm"] != BARE:
            cells = [_range(row["ttft_over_bare_ms"]), *(_range(row[f"cpu_us_of_a_{part}"], "{:.0f}") for part in ("request", "token"))]
            lines.append(f"| {row['clients']} | {row['arm']} | {' | '.join(cells)} |")
    return lines


def starts(told: Told) -> list[str]:
    lines = [
        "From exec until the port is open and until the model answers that it is ready, then the first answer of one token, and the next one; seconds.",
        "Hot: the model's files are in the page cache; cold: they were dropped from it.", "",
        "| | page cache | port open | ready | first answer | next one | others' CPU |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, rows in told["starts"].items():
        for hot in (True, False):
            mine = [row for row in rows if row.get("hot") is hot and not row["failed"]]
            if mine:
                cells = [_seconds(mine, metric) for metric in ("port", "ready", "first", "again")]
                others = max(row["others"] for row in mine)
                lines.append(f"| {name} | {'hot' if hot else 'cold'} | {' | '.join(cells)} | {others:.0%} |")
        lines += [f"| {name} | | failed: {row['failed'][:80]} | | | | |" for row in rows if row["failed"]]
    return lines


def _seconds(rows: Sequence[Told], metric: str) -> str:
    """Nothing where it was not measured yet."""
    values = [row[metric] for row in rows if metric in row]
    return str(spread(values)) if values else ""


def chats(told: Told) -> list[str]:
    ways = {name: row["chats"] for name, row in told.items() if isinstance(row, dict) and "chats" in row}
    least = ways["og.Engine, fp32"]
    return [
        f"Chats of 512 tokens, none sharing anything, in the {told['memory_mib']:.0f} MiB that og.Engine sets aside by default "
        "(`scripts/bench-engines chats`). A chat beyond them waits, and beyond the queue it is refused with 429: `scripts/overload`.", "",
        "| | chats | of og.Engine's |", "|---|---|---|", *(f"| {name} | {count} | {count / least:g} |" for name, count in ways.items()),
    ]  # fmt: skip


def soak(told: Told) -> list[str]:
    head, line = "| broken | resident, MiB | slope, MiB/min | files | threads |", "|---|---|---|---|---|"
    cells = [
        told["broken"], f"{told['rss_mib']['first']} to {told['rss_mib']['last']}", told["rss_slope_mib_per_minute"],
        *(" to ".join(str(count) for count in told[kind].values()) for kind in ("files", "threads")),
    ]  # fmt: skip
    lines = [
        f"`scripts/soak`: {told['minutes']:g} minutes of mixed traffic by {told['clients']} clients on the pocket model."
        + ("" if told["minutes"] > 5 else " So short a run is mostly warm-up: what breaks shows, a slope does not; `--full` takes half an hour."), "",
        head, line, f"| {' | '.join(map(str, cells))} |",
    ]  # fmt: skip
    if "answers_per_second_of_fifths" in told:
        rows = (("resident, MiB", "rss_mib_of_fifths"), ("answers a second", "answers_per_second_of_fifths"))
        lines += ["", "| in each fifth of the time | 1 | 2 | 3 | 4 | 5 |", "|---|---|---|---|---|---|"]
        lines += [f"| {title} | {' | '.join(map(str, told[name]))} |" for title, name in rows]
    return lines


def _share(told: Told, before: bool) -> str:
    """The server's CPU on one side of the step, as a share of the machine."""
    return f"{statistics.median(row['cpu'] for row in told['scrapes'] if (row['at'] < told['stepped']) is before):.0%}"


def autoscale(told: Told) -> list[str]:
    asked = "never" if told["asked_after"] is None else f"{told['asked_after']:.1f} s after the step, at a scrape every 5 s"
    lines = [
        "8 clients, and 24 more from the step on: the server's own gauge of waiting requests, which the chart's HorizontalPodAutoscaler and KEDA",
        f"objects read (one more replica above 2), and its CPU. The autoscaler would ask for another replica: {asked}. The server's CPU was at",
        f"{_share(told, before=True)} before the step and at {_share(told, before=False)} of the machine after it.", "", "| s from the step | waiting | CPU of the machine |", "|---|---|---|",
    ]  # fmt: skip
    return [*lines, *(f"| {row['at'] - told['stepped']:+.1f} | {row['waiting']:g} | {row['cpu']:.0%} |" for row in told["scrapes"])]


TABLES: dict[str, Callable[[Told], list[str]]] = {"S7": layers, "S8": starts, "S9": chats, "S10": soak, "S11": autoscale}
