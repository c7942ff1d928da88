"""The machine that figures come from, and its neighbours: what stands beside a figure, and what makes one void."""

import datetime
import os
import platform
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pilothouse.engines import cpu

KINDS = ("amx", "vnni", "avx512", "avx2", "i8mm", "dotprod")  # what decides most about an engine's speed, the best first
VOID = 0.15  # of the machine: a block in which others had more of it is measured again, and marked where that doesn't help


def today() -> str:
    """The date, as 2026-11-29, in UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def facts() -> dict[str, Any]:
    """CPU, features, cores, kernel, date."""
    return {
        "cpu": cpu.model(),
        "features": sorted(cpu.features()),
        "cores": os.cpu_count(),
        "threads": cpu.threads(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def kind(features: Collection[str]) -> str:
    """The one word for machines whose figures may stand together: their best feature; "plain" where they have none."""
    return next((one for one in KINDS if one in features), "plain")


def line(told: dict[str, Any]) -> str:
    """The same for people."""
    return f"{told['cpu']}, {told['cores']} cores, {', '.join(told['features'])}, Linux {told['kernel']}, {told['date'][:10]}"


@contextmanager
def confined(cores: int) -> Iterator[None]:
    """What is started inside has the first `cores` of this machine's; 0: all of them."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: cores or len(before)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _busy() -> float:
    """CPU seconds that this machine has worked so far, in all processes; what the hypervisor took counts as well."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal, *_ = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _ours(root: int) -> float:
    """CPU seconds of `root`, its descendants that live, and those of their children that have ended and were waited for."""
    parents, used = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            used[int(folder.name)] = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    family, grown = {root}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in family} - family
        grown = bool(more)
        family |= more
    return sum(used.get(one, 0.0) for one in family)


class Watch:
    """`with Watch() as watch:` and then `watch.others`: the share of this machine that was not ours meanwhile, 0..1."""

    others = 0.0

    def __enter__(self) -> Self:
        self._begun = (time.perf_counter(), _busy(), _ours(os.getpid()))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        at, busy, ours = self._begun
        wall = (time.perf_counter() - at) * (os.cpu_count() or 1)
        self.others = max(0.0, (_busy() - busy) - (_ours(os.getpid()) - ours)) / wall
