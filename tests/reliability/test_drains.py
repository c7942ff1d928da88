"""The way out of a real process under load: what was taken is answered whole, what is refused is refused before it began, and it ends in time."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reliability.clients import KINDS, Clients, Refused, Told, Wire, get
from reliability.conftest import FULL
from support.server import Served, served

REPEATS = 20 if FULL else 2
TOKENS = 60
PROMPT = "Tell me of a drain"
LAME_DUCK = 1.0
DRAIN = 3.0


@dataclass
class Account:
    """What became of every request: of those asked before the lame duck's end, and of all."""

    whole: int = 0
    refused: int = 0
    early: list[str] = field(default_factory=list)  # refused while requests were still to be taken
    wrong: list[str] = field(default_factory=list)


async def keep_asking(clients: Clients, kind: str, text: str, account: Account, closed_at: Callable[[], float]) -> None:
    """Ask until nobody is there any more."""
    while True:
        asked = time.monotonic()
        try:
            told = await clients.ask(kind, PROMPT, TOKENS)
        except Refused as error:
            account.refused += 1
            if asked < closed_at():
                account.early.append(f"{kind}: {error}")
            return
        except Exception as error:  # a cut, a time-out: what must not be
            account.wrong.append(f"{kind}: {error!r}")
            return
        if told.refused:
            account.refused += 1
            if asked < closed_at():
                account.early.append(f"{kind}: {told}")
            return
        if not told.whole or (told.text, told.tokens) != (text, TOKENS):
            account.wrong.append(f"{kind}: {told}")
        account.whole += 1


@pytest.mark.parametrize("repeat", range(REPEATS))
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_loses_nothing(number: signal.Signals, repeat: int) -> None:
    """Eight clients of four kinds that ask on and on: every answer is whole, requests are taken until the lame duck's end though readiness is
    off at once, the exit code is 0, and no child is left."""
    with served(lame_duck_seconds=LAME_DUCK, drain_seconds=30) as server:
        async with Clients(server.rest, server.grpc, server.model) as clients:
            reference = await clients.ask("unary", PROMPT, TOKENS)
            account, signalled = Account(), [float("inf")]
            closed_at = lambda: signalled[0] + LAME_DUCK - 0.2  # noqa: E731  # asked before, in time
            tasks = [
                asyncio.create_task(keep_asking(clients, kind, reference.text, account, closed_at)) for kind in KINDS for _ in range(2)
            ]
            while account.whole < 16 and not any(task.done() for task in tasks):  # noqa: ASYNC110  # all of them are at it
                await asyncio.sleep(0.01)
            signalled[0] = time.monotonic()
            server.process.send_signal(number)
            unready = await readiness_off(server, signalled[0])
            before = account.whole
            await asyncio.wait_for(asyncio.gather(*tasks), 60)
        code = await asyncio.to_thread(server.process.wait, 60)

        print(f"{number.name} {repeat}: {account.whole} whole, {account.refused} refused at the end, unready after {unready:.2f} s")
        assert (account.wrong, account.early, code) == ([], [], 0)
        assert account.whole > before
        assert children(server.process.pid) == []


async def readiness_off(server: Served, since: float) -> float:
    """Seconds from `since` until readiness was off; the server answers all the while."""
    while (await get(server.rest, "/v2/health/ready")).status == 200:
        assert time.monotonic() - since < LAME_DUCK
    return time.monotonic() - since


def children(pid: int) -> list[int]:
    """Processes whose parent is, or was, `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        if pid in (int(fields[1]), int(fields[2]), int(fields[3])):  # parent, group, session
            found.append(int(stat.parent.name))
    return [child for child in found if child not in (pid, os.getpid())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_never_ends_is_ended(number: signal.Signals) -> None:
    """A stalled upload, a stream over each protocol without an end and a connection that says nothing: the process is gone within the lame duck,
    the drain and two seconds, with code 0, and the streams' clients have read why."""
    environment = {"SCRIPTED_STEP_SECONDS": "0.05"}
    with served(scripted=True, environment=environment, lame_duck_seconds=0.2, drain_seconds=DRAIN) as server:
        async with Clients(server.rest, server.grpc, server.model) as clients:
            upload, silent = await Wire.open(server.rest), await Wire.open(server.rest)
            await upload.post("/v1/completions", b'{"prompt":', length=1000)
            tasks = [asyncio.create_task(clients.ask(kind, "for ever", 4000)) for kind in KINDS]
            while (await get(server.metrics.removesuffix("/metrics"), "/metrics")).body.find(b"pilothouse_requests_running 4.0") < 0:
                pass
            began = time.monotonic()
            server.process.send_signal(number)
            code = await asyncio.to_thread(server.process.wait, 60)
            took = time.monotonic() - began
            told: list[Told] = await asyncio.wait_for(asyncio.gather(*tasks), 10)
            upload.close()
            silent.close()

    print(f"{number.name}: gone after {took:.2f} s")
    assert code == 0
    assert took < 0.2 + DRAIN + 2
    assert [answer.error for answer in told] == ["the server is stopping; send the request again, another one answers"] * 4
    assert [answer.status for answer in told] == [503, 200, "UNAVAILABLE", "UNAVAILABLE"]
