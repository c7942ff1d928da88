"""Mixed traffic for a long time: does the server's memory, its files or its threads grow, does it get slower, does it ever answer 5xx?

    scripts/soak [--minutes 30] [--clients 8] [--json FILE] [MODEL]

Starts a server of its own (the pocket model where none is named). Clients ask over REST, SSE, gRPC and gRPC streams, one in twenty hangs up
in the middle. Resident memory is sampled each second; its slope is fitted to what comes after the warm-up (a third of the time, a minute at
most) and printed, with what was resident and how many answers a second there were in each fifth of it; what it grew by since then is bounded. Files and threads are counted at rest, after the warm-up and at the end. Exit code 1 where a bound is broken.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from reliability.clients import KINDS, Clients, Cut, Refused
    from support.server import Served, served

PLACES = min(32, (os.cpu_count() or 1) + 4)  # of asyncio's thread pool: a thread is made when all others are busy at once, however late
MIB = 1 << 20
GROWTH = 0.10  # of what is resident after the warm-up: the allocator goes on settling (4% in nine minutes), a kilobyte a request is 80 MiB in thirty
POOL = 32 * MIB
FIFTHS = 5
HANG_UPS = 0.05
PROMPTS = [
    f"{word} {other}" for word in ("What is", "Tell me of", "Explain") for other in ("MLflow", "ONNX", "Kubernetes", "a pod", "yourself")
]


class Process:
    """What the kernel knows of a process."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")

    def resident(self) -> int:
        """Bytes."""
        return self._status("VmRSS") << 10

    def threads(self) -> int:
        return self._status("Threads")

    def files(self) -> int:
        return sum(1 for _ in (self._folder / "fd").iterdir())

    def _status(self, name: str) -> int:
        line = next(line for line in (self._folder / "status").read_text().splitlines() if line.startswith(name))
        return int(line.split()[1])


class Traffic:
    """Clients that can be told to rest, and what they were answered."""

    def __init__(self, server: Served, count: int) -> None:
        self._server, self._count = server, count
        self.answers: Counter[str] = Counter()
        self.odd: list[str] = []
        self.ends: list[float] = []  # monotonic seconds of whole answers

    async def run(self, seconds: float) -> None:
        """All clients for `seconds`; afterwards none of them asks anything."""
        until = time.monotonic() + seconds
        async with Clients(self._server.rest, self._server.grpc, self._server.model) as clients:
            await asyncio.gather(*[self._client(clients, random.Random(number), until) for number in range(self._count)])

    async def _client(self, clients: Clients, draw: random.Random, until: float) -> None:
        while time.monotonic() < until:
            kind, prompt, tokens = draw.choice(KINDS), draw.choice(PROMPTS), draw.randint(1, 64)
            options: dict[str, Any] = {"temperature": draw.choice([0.0, 0.8]), "seed": draw.randint(0, 1 << 30)}
            task = asyncio.create_task(clients.ask(kind, prompt + " ?" * draw.randint(0, 200), tokens, **options))
            if draw.random() < HANG_UPS:
                await asyncio.wait({task}, timeout=draw.random() * 0.2)
                if task.cancel():
                    self.answers["hung up"] += 1
                    await asyncio.wait({task})
                    continue
            try:
                told = await task
            except (Refused, Cut, TimeoutError) as error:
                self.answers["broken"] += 1
                self.odd.append(repr(error))
                continue
            self.answers["whole" if told.whole else str(told.status)] += 1
            if told.whole:
                self.ends.append(time.monotonic())
            else:
                self.odd.append(f"{kind}: {told}")
            await asyncio.sleep(draw.random() * 0.1)


async def soak(server: Served, minutes: float, count: int) -> dict[str, Any]:
    """The figures of one run."""
    process, traffic = Process(server.process.pid), Traffic(server, count)
    warm = min(60.0, minutes * 20)
    await traffic.run(warm)
    await asyncio.sleep(2)
    files, threads = process.files(), process.threads()
    samples: list[tuple[float, int]] = []
    began = time.monotonic()

    async def sample() -> None:
        while True:
            samples.append((time.monotonic() - began, process.resident()))
            await asyncio.sleep(1)

    sampling = asyncio.create_task(sample())
    await traffic.run(minutes * 60 - warm)
    sampling.cancel()
    await asyncio.sleep(2)
    times, sizes = np.array(samples).T
    slope = float(np.polyfit(times / 60, sizes / MIB, 1)[0])
    bounds = np.linspace(0, minutes * 60 - warm, FIFTHS + 1)
    rates = np.histogram(np.array(traffic.ends) - began, bounds)[0] / np.diff(bounds)
    resident = [sizes[(times >= begin) & (times < end)].mean() / MIB for begin, end in itertools.pairwise(bounds)]
    return {
        "minutes": minutes,
        "clients": count,
        "answers": dict(traffic.answers),
        "broken": traffic.answers["broken"]
        + sum(n for status, n in traffic.answers.items() if status.startswith("5") or status == "INTERNAL"),
        "odd": traffic.odd[:5],
        "rss_mib": {"first": round(sizes[0] / MIB, 1), "last": round(sizes[-1] / MIB, 1), "most": round(sizes.max() / MIB, 1)},
        "rss_slope_mib_per_minute": round(slope, 3),
        "rss_mib_of_fifths": [round(float(size), 1) for size in resident],
        "answers_per_second_of_fifths": [round(float(rate), 1) for rate in rates],
        "files": {"after warm-up": files, "at the end": process.files()},
        "threads": {"after warm-up": threads, "at the end": process.threads()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="*", help="what to serve")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    # A pool that the warm-up touches whole: what grows after that is no cache that fills.
    with served(*args.model, kv_memory_bytes=POOL) as server:
        found = asyncio.run(soak(server, args.minutes, args.clients))
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    kept = (
        found["broken"] == 0,
        found["rss_mib"]["last"] <= found["rss_mib"]["first"] * (1 + GROWTH),
        found["files"]["at the end"] <= found["files"]["after warm-up"],
        found["threads"]["at the end"] < found["threads"]["after warm-up"] + PLACES,
    )
    print("soak: nothing grows, nothing broke" if all(kept) else f"soak: a bound is broken (broken, memory, files, threads kept: {kept})")
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
