"""An engine that breaks, hangs or takes its time: its clients hear of it, probes tell the truth, and it is made anew."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reliability.clients import KINDS, Clients, Refused, Told, get, until
from support.serve_scripted import BREAKS, HANGS
from support.server import SCRIPTED, Served, served

SENTENCE = "the engine failed; the reason is in the server's log"
FAILED = {"unary": 500, "sse": 200, "grpc": "INTERNAL", "grpc_stream": "INTERNAL"}


async def readiness(server: Served) -> int:
    return (await get(server.rest, "/v2/health/ready")).status


async def eight(clients: Clients, first: str) -> list["asyncio.Task[Told]"]:
    """Eight requests of all kinds in eight rows; the first one's prompt is `first`, the others go on for long."""
    prompts = [first] + [f"long {number}" for number in range(7)]
    return [asyncio.create_task(clients.ask(KINDS[number % 4], prompt, 2000)) for number, prompt in enumerate(prompts)]


def judge(answers: list[Told]) -> None:
    """Each one ends with the engine's error, in its protocol's way, and none with a finish reason."""
    assert [(told.status, told.error, told.finishes) for told in answers] == [
        (FAILED[KINDS[number % 4]], SENTENCE, []) for number in range(len(answers))
    ]


async def test_an_engine_that_breaks_under_eight_streams(slow: Served, asks_slow: Clients) -> None:
    """A typed error for each within two seconds, readiness off within one, liveness on, and an engine that answers afterwards."""
    before = await asks_slow.ask("unary", "as ever", 8)
    tasks = await eight(asks_slow, BREAKS)
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    broke = time.monotonic()
    unready = await until(lambda: _is(slow, 503), seconds=1)
    live = (await get(slow.rest, "/v2/health/live")).status
    answers = await asyncio.wait_for(asyncio.gather(*tasks), 2)
    told = time.monotonic() - broke
    back = await until(lambda: _is(slow, 200), seconds=30)

    print(f"broken: all told after {told:.2f} s, unready after {unready:.2f} s, ready again after {back:.2f} s more")
    judge(answers)
    assert live == 200
    assert await asks_slow.ask("unary", "as ever", 8) == before


async def test_an_engine_that_hangs_under_eight_streams(slow: Served, asks_slow: Clients, hold: Path) -> None:
    """Once it counts as hung (stall_seconds): a typed error for each within two seconds, readiness and liveness off; should the step
    come back before the process is restarted, the engine is made anew."""
    before = await asks_slow.ask("unary", "as ever", 8)
    hold.touch()  # noqa: ASYNC240  # one call
    try:
        tasks = await eight(asks_slow, HANGS)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert (await get(slow.rest, "/v2/health/ready")).status == 503
        assert (await get(slow.rest, "/v2/health/live")).status == 503
        refused = await asks_slow.ask("unary", "now?", 8)
        assert (refused.status, refused.refused) == (503, True)
    finally:
        hold.unlink()  # noqa: ASYNC240  # one call
    back = await until(lambda: _is(slow, 200), seconds=30)

    print(f"hung: ready again {back:.2f} s after the step came back")
    judge(answers)
    assert (await get(slow.rest, "/v2/health/live")).status == 200
    assert await asks_slow.ask("unary", "as ever", 8) == before


async def _is(server: Served, status: int) -> bool:
    return await readiness(server) == status


async def test_a_hung_engine_does_not_hold_the_end(tmp_path: Path) -> None:
    """SIGTERM with a step that never comes back: gone in time, with code 0."""
    stuck = tmp_path / "hold"
    stuck.touch()
    with served(scripted=True, environment={"SCRIPTED_HOLD": str(stuck)}, drain_seconds=1, lame_duck_seconds=0.1) as server:
        async with Clients(server.rest, server.grpc, server.model) as clients:
            task = asyncio.create_task(clients.ask("sse", HANGS, 100))
            await until(lambda: _running(server))
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.process.wait, 60) == 0
            assert time.monotonic() - began < 0.1 + 1 + 2
            assert (await asyncio.wait_for(task, 5)).error


async def _running(server: Served) -> bool:
    page = await get(server.metrics.removesuffix("/metrics"), "/metrics")
    return b"pilothouse_requests_running 1.0" in page.body


async def test_a_slow_load_is_live_and_not_ready(tmp_path: Path) -> None:
    """While a model loads every liveness probe is answered, readiness is off, and requests are told to come back."""
    loading = tmp_path / "loading"
    loading.touch()
    port = _free_port()
    process = _start({"SCRIPTED_LOAD_HOLD": str(loading), "PILOTHOUSE_REST_PORT": str(port)}, tmp_path / "ready")
    url = f"http://127.0.0.1:{port}"

    async def listens() -> bool:
        try:
            return (await get(url, "/v2/health/live")).status == 200
        except Refused:
            return False

    async def ready() -> bool:
        return (await get(url, "/v2/health/ready")).status == 200

    try:
        await until(listens)
        slowest = 0.0
        for _ in range(100):
            began = time.monotonic()
            assert (await get(url, "/v2/health/live")).status == 200
            slowest = max(slowest, time.monotonic() - began)
            assert not await ready()
        async with Clients(url, f"127.0.0.1:{port}", "scripted") as clients:
            assert (await clients.ask("unary", "early", 4)).refused
        loading.unlink()
        await until(ready)
        print(f"slow load: the slowest of a hundred liveness probes took {slowest * 1000:.0f} ms")
    finally:
        process.terminate()
        assert process.wait(30) == 0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def _start(environment: dict[str, str], ready: Path) -> "subprocess.Popen[Any]":
    """The scripted server, its addresses known to nobody else."""
    free = {"PILOTHOUSE_GRPC_PORT": "0", "PILOTHOUSE_METRICS_PORT": "0"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, SCRIPTED, str(ready)], env=os.environ | free | environment, stdout=quiet, stderr=quiet)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_error_in_mid_stream_is_the_last_thing_said(slow: Served, asks_slow: Clients, kind: str) -> None:
    """Words first, then the error and no finish reason."""
    await until(lambda: _is(slow, 200), seconds=30)
    told = await asks_slow.ask(kind, BREAKS, 100)
    assert (told.status, told.error, told.finishes) == (FAILED[kind], SENTENCE, [])
    assert bool(told.text) == (kind in ("sse", "grpc_stream"))
    await until(lambda: _is(slow, 200), seconds=30)
