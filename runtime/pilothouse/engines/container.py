"""What this container may use: CPU quota and memory, by both versions of cgroups.

The machine's own numbers are wrong in a pod: threads beyond the quota are throttled, memory beyond the limit is a kill. Limits may stand at
any ancestor, so the whole path up to the root is read.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

Read = Callable[[str], str | None]  # a file's text, None when there is none

UNLIMITED = 1 << 60  # v1 writes "no limit" as a number near 2**63
ROOT = "/sys/fs/cgroup"


def read(path: str) -> str | None:
    """The text of a file of /proc or /sys, None when it is not there or not ours to read."""
    try:
        return Path(path).read_text()
    except OSError:
        return None


def folders(cgroups: str, controller: str) -> Iterator[str]:
    """Folders that may hold the limits of `controller`, innermost first, from the text of /proc/self/cgroup.

    In a container the path often is one of the host, which is not there: the root then holds the container's own files.
    """
    for line in cgroups.splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            mount = ROOT
        elif controller in names.split(","):
            mount = f"{ROOT}/{controller}"
        else:
            continue
        inner = PurePosixPath(path)
        for folder in (inner, *inner.parents):
            yield mount + str(folder).rstrip("/")


def quota_v2(text: str) -> float | None:
    """CPUs from cpu.max: "150000 100000" is 1.5, "max 100000" is None."""
    most, _, period = text.strip().partition(" ")
    return None if most == "max" else int(most) / int(period or 100_000)


def quota_v1(quota: str, period: str) -> float | None:
    """CPUs from cpu.cfs_quota_us and cpu.cfs_period_us; -1 is None."""
    return None if int(quota) < 0 else int(quota) / int(period)


def memory_limit(text: str) -> int | None:
    """Bytes from memory.max or memory.limit_in_bytes; None for no limit."""
    value = text.strip()
    return None if value == "max" or int(value) >= UNLIMITED else int(value)


def field(text: str, name: str) -> int:
    """The number after `name` in memory.stat or /proc/meminfo (where it is in KiB); 0 when it is not there."""
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    return 0


def cpus(read: Read = read, allowed: int | None = None) -> float:
    """CPUs this process may use: the tightest quota, at most those it may be scheduled on."""
    quotas = [float(allowed or len(os.sched_getaffinity(0)))]
    for folder in folders(read("/proc/self/cgroup") or "", "cpu"):
        if (text := read(f"{folder}/cpu.max")) is not None:
            found = quota_v2(text)
        elif (quota := read(f"{folder}/cpu.cfs_quota_us")) is not None and (period := read(f"{folder}/cpu.cfs_period_us")) is not None:
            found = quota_v1(quota, period)
        else:
            continue
        if found is not None:
            quotas.append(found)
    return min(quotas)


def threads(read: Read = read, allowed: int | None = None) -> int:
    """Compute threads for that quota: a part of a CPU is worth a thread, since all wait for each other anyway."""
    return max(1, math.ceil(cpus(read, allowed)))


def memory(read: Read = read) -> int | None:
    """The tightest memory limit in bytes, None when nothing but the machine limits it."""
    limits = [limit for limit, _ in _limits(read)]
    return min(limits) if limits else None


def memory_left(read: Read = read) -> int:
    """Bytes that can still be used: under every limit, and on the machine. Page cache counts as left, since it gives way."""
    left = [field(read("/proc/meminfo") or "", "MemAvailable") * 1024]
    left += [limit - used for limit, used in _limits(read)]
    return max(0, min(left))


def _limits(read: Read) -> Iterator[tuple[int, int]]:
    """(limit, used without idle page cache) of every ancestor that has a limit."""
    for folder in folders(read("/proc/self/cgroup") or "", "memory"):
        for most, now, idle in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            text, used = read(f"{folder}/{most}"), read(f"{folder}/{now}")
            limit = memory_limit(text) if text is not None else None
            if limit is not None and used is not None:
                yield limit, int(used) - field(read(f"{folder}/memory.stat") or "", idle)
