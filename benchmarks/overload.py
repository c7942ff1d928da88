"""Four times as many clients as places: what becomes of those who are let in, of those who are not, and of the memory.

    scripts/overload [--seconds 40] [--rows 48] [--queue 2] [--step 0.02] [--json FILE]

The engine is the scripted one, a step of fixed length like a GPU's: what is measured is the server. First as many clients as rows
(uncontended, and the peak), then four times as many as rows and queue together; a refused client comes back when Retry-After-Ms says, as OpenAI's do.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from soak import MIB, Process

from support.server import Served, served

TOKENS = (8, 56)  # of an answer, evenly spread: rows that all end at once would be a convoy


class Connection(asyncio.Protocol):
    """One answer: when its head and its first event came, and how it ended."""

    def __init__(self) -> None:
        self.data = b""
        self.answered = self.first = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.answered = self.answered or time.perf_counter()
        if not self.first and b"data:" in data:
            self.first = time.perf_counter()
        self.data = (self.data if len(self.data) < 4096 else self.data[:512] + self.data[-2048:]) + data

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


@dataclass
class Found:
    """Seconds to the first token of accepted requests and to the answer of refused ones; tokens of whole answers; anything else."""

    firsts: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    tokens: int = 0
    odd: list[bytes] = field(default_factory=list)


async def client(url: str, draw: random.Random, until: float, found: Found) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    loop = asyncio.get_running_loop()
    while time.perf_counter() < until:
        tokens = draw.randint(*TOKENS)
        body = json.dumps(
            {"prompt": "What is it?", "stream": True, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        transport, one = await loop.create_connection(Connection, host, int(port))
        sent = time.perf_counter()
        transport.write(head + body)
        await one.done
        if b"HTTP/1.1 429" in one.data[:16] and b"retry-after" in one.data.lower():
            found.refusals.append(one.answered - sent)
            await asyncio.sleep(float(one.data.lower().partition(b"retry-after-ms: ")[2].partition(b"\r\n")[0]) / 1000)
        elif one.data.startswith(b"HTTP/1.1 200") and one.data.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
            found.firsts.append(one.first - sent)
            found.tokens += tokens
        else:
            found.odd.append(one.data[:300])


async def drive(server: Served, clients: int, seconds: float) -> dict[str, Any]:
    """`clients` for `seconds`."""
    process, found = Process(server.process.pid), Found()
    before, began = process.resident(), time.perf_counter()
    await asyncio.gather(*[client(server.rest, random.Random(number), began + seconds, found) for number in range(clients)])
    took = time.perf_counter() - began
    return {
        "clients": clients,
        "accepted": len(found.firsts),
        "refused": len(found.refusals),
        "other": [answer.decode(errors="replace") for answer in found.odd],
        "goodput_tokens_per_s": round(found.tokens / took, 1),
        "ttft_ms": milliseconds(found.firsts),
        "refusal_ms": milliseconds(found.refusals),
        "rss_growth_mib": round((process.resident() - before) / MIB, 1),
    }


def milliseconds(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and most."""
    if not seconds:
        return {}
    return {name: round(float(np.percentile(seconds, at)) * 1000, 1) for name, at in (("p50", 50), ("p99", 99), ("most", 100))}


async def measure(server: Served, rows: int, queue: int, seconds: float) -> dict[str, Any]:
    await drive(server, rows, 3)  # imports, caches
    alone = await drive(server, rows, seconds / 2)
    crowd = await drive(server, 4 * (rows + queue), seconds)
    return {
        "uncontended": alone,
        "overload": crowd,
        "accepted p99 TTFT over uncontended": round(crowd["ttft_ms"]["p99"] / alone["ttft_ms"]["p99"], 2),
        "goodput over peak": round(crowd["goodput_tokens_per_s"] / alone["goodput_tokens_per_s"], 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--queue", type=int, default=2)
    parser.add_argument("--step", type=float, default=0.02, help="seconds of one step")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    environment = {"SCRIPTED_STEP_SECONDS": str(args.step)}
    with served(scripted=True, environment=environment, rows=args.rows, queue=args.queue) as server:
        found = asyncio.run(measure(server, args.rows, args.queue, args.seconds))
    found = {"rows": args.rows, "queue": args.queue, "step_seconds": args.step, **found}
    print(json.dumps(found, indent=1))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["uncontended"]["other"] or found["overload"]["other"] else 0


if __name__ == "__main__":
    sys.exit(main())
