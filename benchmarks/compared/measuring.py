"""Runs scenarios: all arms are up at once and asked in turn, there and back (ABBA); what neighbours spoilt is measured again."""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import machine
from client.command import Progress
from client.driving import Run
from client.summary import verdict
from client.workloads import poisson

from compared import kept
from compared.arms import Arm, arm, warm
from compared.kept import Measured
from compared.scenarios import Point, Scenario
from pilothouse.engines import cpu

ROWS = 16
TRIES = 2


class Stopped(Exception):
    """Ctrl-C: what was measured is kept."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Field:
    """The arms of a command, each started once when it is first wanted. One that can't be had is told, not dropped."""

    def __init__(self, only: Sequence[str] = ()) -> None:
        self._only, self._up, self._stack = only, dict[str, Arm](), ExitStack()
        self.missing: dict[str, str] = {}
        self.facts: dict[str, Any] = {}

    def get(self, name: str) -> Arm | None:
        if (self._only and name not in self._only) or name in self.missing:
            return None
        if name not in self._up:
            kind, _, cores = name.partition("@")
            one = arm(kind, ROWS, int(cores or cpu.threads()))
            say(f"{name}: starting")
            try:
                with machine.confined(int(cores or 0)):
                    one.start()
            except (SystemExit, RuntimeError, OSError) as error:
                self.missing[name] = str(error)
                say(f"{name}: {error}")
                return None
            self._stack.callback(one.stop)
            if name == kind:
                self.facts[name] = one.facts
            self._up[name] = one
            wrong = warm(one, ROWS)
            if wrong:
                say(f"{name} does not answer: {wrong}")
        return self._up[name]

    def close(self) -> None:
        self._stack.close()


def run_point(one: Arm, point: Point, seed: int, block: int, best: float, label: str) -> Measured:
    """The quietest of up to two tries, the second with another seed: no prompt is seen twice."""
    found: Measured | None = None
    for attempt in range(TRIES):
        requests = point.make(seed + attempt * 1_000_003)
        if point.rate_share is not None:
            requests = poisson(requests, point.rate_share * best, seed)
        progress = Progress(len(requests), label=label)
        date = machine.today()
        with machine.Watch() as watch:
            run: Run = one.ask(requests, point.clients, progress)
        progress.close()
        told = Measured(point.label, one.name, block, seed, round(watch.others, 4), round(run.cpu, 4), verdict(run), run.answers, date)
        if run.interrupted:
            raise Stopped
        if found is None or told.others < found.others:
            found = told
        if watch.others <= machine.VOID:
            break
    assert found is not None
    return found


def measure(scenario: Scenario, points: Sequence[Point], blocks: int, field: Field, folder: Path, best: float, add: bool) -> list[Measured]:
    """All blocks; kept after each. `best`: requests a second that shares of rates are of."""
    runs = kept.load(folder, scenario.id) if add else []
    first = max((run.block for run in runs), default=-1) + 1
    began = int(time.time())
    try:
        for block in range(first, first + blocks):
            begun = time.perf_counter()
            for place, point in enumerate(points):
                for name in point.arms if block % 2 == 0 else reversed(point.arms):
                    one = field.get(name)
                    if one is None:
                        continue
                    label = f"{scenario.id} block {block + 1}, {point.label}, {name}: "
                    told = run_point(one, point, began + block * 100 + place, block, best, label)
                    runs.append(told)
                    numbers = point.read(told.answers)
                    rate = numbers.get("tokens_per_second", 0.0)
                    say(f"{label}{rate:.1f} tokens/s, others {told.others:.0%}" + (f"; FAILED: {told.failed[:120]}" if told.failed else ""))
            say(f"{scenario.id}: block {block + 1} in {time.perf_counter() - begun:.0f} s")
            kept.save(folder, scenario.id, runs)
    finally:
        kept.save(folder, scenario.id, runs)
    return runs
