"""Streams, and callers that go away: D18, D23, E4, E6."""

import asyncio
import re
from typing import Any

import httpx

from record import calls
from record.case import Seen, case
from record.errors import broken_stream
from record.hosts import Host, waited
from record.sides import Side, Stock

WORK = 400  # tokens of 20 ms: far longer than anything here waits
SOON = 4.0  # seconds after which work that nobody waits for must have ended


@case(
    "D18",
    "A stream's errors come too late to be told: 200 with a broken chunk, or a cut in the middle",
    {
        "an unknown model, gzip on": ("500 text/plain", '404 {"error"}'),
        "an unknown model, gzip off": ("200, then the connection is cut", '404 {"error"}'),
        "an exception in the middle": ("some events, then the connection is cut", "some events, then an error event, and a proper end"),
    },
)
async def d18(side: Side) -> Seen:
    host = await side.plain()
    off = await side.second() if isinstance(side, Stock) else host
    return {
        "an unknown model, gzip on": await unknown(host),
        "an unknown model, gzip off": await unknown(off),
        "an exception in the middle": await broken_stream(side, calls.infer(verb="infer_stream"), calls.body(calls.BREAKS)),
    }


async def unknown(host: Host) -> str:
    """How a stream of a model goes that is not there."""
    pieces: list[bytes] = []
    path = calls.infer("nobody", "infer_stream")
    how = await calls.collect(host, path, calls.body(), into=pieces, headers={"Accept-Encoding": "gzip"})
    return f"200, {'some events, ' if pieces else ''}then the connection is cut" if how == "cut" else how


@case(
    "E4",
    "Without workers, a stream comes word by word, gzip or not; each event repeats the request's headers",
    {
        "a stream of 16": ("16 tokens, as they come", "16 tokens, as they come"),
        "the same, Accept-Encoding: gzip": ("16 tokens, as they come", "16 tokens, as they come"),
        "an event of one word": ("repeats headers of the event's kind", "has the word"),
    },
    good=True,
)
async def e4(side: Side) -> Seen:
    host = await side.plain()
    seen: Seen = {}
    text = ""
    for tried, headers in (
        ("a stream of 16", {"Accept-Encoding": "identity"}),
        ("the same, Accept-Encoding: gzip", {"Accept-Encoding": "gzip"}),
    ):
        pieces: list[bytes] = []
        how = await calls.collect(host, calls.infer(verb="infer_stream"), calls.body(), into=pieces, headers=headers)
        text = b"".join(pieces).decode()
        # Each word is 20 ms after the last: what was held back comes in one piece.
        come = "as they come" if len(pieces) > calls.STEPS // 2 else "held back"
        seen[tried] = f"{calls.rest_tokens(pieces)} tokens, {come}" if how == "ended" else how
    seen["an event of one word"] = "repeats headers of the event's kind" if re.search('"ce-', text, re.IGNORECASE) else "has the word"
    return seen


async def running(host: Host, side: Side) -> int:
    """How many requests the host works on."""
    if side.stock:
        return int((await calls.told(host))["running"])
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"http://127.0.0.1:{host.ports.metrics}/metrics")).text
    return int(float(re.findall(r"^pilothouse_requests_running(?:\{.*\})? (\S+)$", text, re.MULTILINE)[0]))


async def abandoned(side: Side, how: str) -> str:
    """Whether the work ends when its caller goes away."""
    host = await side.plain()
    asked = calls.body(max_tokens=WORK)
    async with calls.stubs(host) as stub:
        ways: dict[str, Any] = {
            "unary": lambda: calls.post(host, calls.infer(), asked),
            "stream": lambda: calls.collect(host, calls.infer(verb="infer_stream"), asked, into=[]),
            "grpc": lambda: stub.ModelInfer(calls.message(max_tokens=WORK), timeout=1.0),
        }
        before = await running(host, side)

        async def begun() -> bool:
            return await running(host, side) > before

        async def ended() -> bool:
            return await running(host, side) == before

        call = asyncio.ensure_future(calls.code(ways[how]()))
        await waited(begun, 10)
        if how == "grpc":
            await asyncio.wait({call})
        call.cancel()
        await asyncio.wait({call})
        stopped = await waited(ended, SOON)
        await waited(ended, 10)
    return "the work ends" if stopped else "works on to the end"


@case(
    "D23",
    "A caller of a unary REST request that goes away is worked for to the end",
    {
        "REST, unary": ("works on to the end", "the work ends"),
        "REST, stream": ("the work ends", "the work ends"),
        "gRPC, its deadline": ("the work ends", "the work ends"),
    },
)
async def d23(side: Side) -> Seen:
    ways = {"REST, unary": "unary", "REST, stream": "stream", "gRPC, its deadline": "grpc"}
    return {tried: await abandoned(side, how) for tried, how in ways.items()}


@case(
    "E6", "Without workers, a stream's work ends when its client goes away", {"REST, stream": ("the work ends", "the work ends")}, good=True
)
async def e6(side: Side) -> Seen:
    return {"REST, stream": await abandoned(side, "stream")}
