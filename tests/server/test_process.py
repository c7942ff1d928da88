"""The process: its exit codes, its one line of reason, and signals whenever they come."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from grpc import aio
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from pilothouse.errors import StartError
from pilothouse.server import ports
from server.running import PATIENCE, chosen, running
from server.test_grpc import MLSERVER, asked
from server.test_v2_rest import INFER, events, tensor

SCRIPT = Path(__file__).with_name("serve_toy.py")


@dataclass
class Process:
    """A serving process and what it says."""

    process: asyncio.subprocess.Process

    async def addresses(self) -> dict[str, str]:
        """The next addresses it writes."""
        async with asyncio.timeout(PATIENCE * 3):
            return dict(orjson.loads(await self.process.stdout.readline()))

    async def ends(self) -> tuple[int, list[Any]]:
        """Its exit code, and its log."""
        async with asyncio.timeout(PATIENCE * 3):
            _, log = await self.process.communicate()
        return self.process.returncode, [orjson.loads(line) for line in log.splitlines()]


@asynccontextmanager
async def process(mode: str = "serve", **settings: Any) -> AsyncIterator[Process]:
    """`serve_toy.py MODE` in a session of its own, killed at the end if it is still there."""
    values = {
        "rest_port": 0,
        "grpc_port": 0,
        "metrics_port": 0,
        "lame_duck_seconds": 0.2,
        "drain_seconds": 10,
        "log_format": "json",
        **settings,
    }
    environment = os.environ | {f"PILOTHOUSE_{name.upper()}": str(value) for name, value in values.items()}
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), mode, env=environment, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


async def load_on(addresses: dict[str, str], count: int) -> tuple[list["asyncio.Task[str]"], asyncio.Event]:
    """Requests of all four kinds, `count` of each, long ones; the event is set once every stream has begun."""
    rest, grpc = addresses["rest"], addresses["grpc"]
    begun, streams = asyncio.Event(), 0
    words = "count 4000"

    def first() -> None:
        nonlocal streams
        streams += 1
        if streams == 2 * count:
            begun.set()

    async def unary() -> str:
        async with httpx.AsyncClient(base_url=rest, timeout=PATIENCE) as client:
            return str((await client.post(INFER, json=tensor(words))).json()["outputs"][0]["data"][0])

    async def stream() -> str:
        body = ""
        path = "/v2/models/toy/generate_stream"
        client = httpx.AsyncClient(base_url=rest, timeout=PATIENCE)
        async with client, client.stream("POST", path, json={"text_input": words}) as reply:
            async for text in reply.aiter_text():
                if not body:
                    first()
                body += text
        return "".join(event["text_output"] for event in events(body))

    async def grpc_unary() -> str:
        async with aio.insecure_channel(grpc) as channel:
            return str((await GRPCInferenceServiceStub(channel).ModelInfer(asked(words))).outputs[0].contents.bytes_contents[0].decode())

    async def grpc_stream() -> str:
        found: list[str] = []

        async def requests() -> AsyncIterator[Any]:
            yield asked(words)

        async with aio.insecure_channel(grpc) as channel:
            async for answer in GRPCInferenceServiceStub(channel).ModelStreamInfer(requests(), metadata=MLSERVER):
                if not found:
                    first()
                found.append(answer.outputs[0].contents.bytes_contents[0].decode())
        return "".join(found)

    return [asyncio.create_task(kind()) for kind in (unary, stream, grpc_unary, grpc_stream) for _ in range(count)], begun


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "group", "again and again"])
async def test_a_signal_under_load_loses_nothing(how: str) -> None:
    """SIGTERM, SIGINT, either to the whole group, and more of them until the end: every answer is whole, and the exit code 0."""
    counted = "".join(f"{n} " for n in range(4000))
    async with process(lame_duck_seconds=1) as run:  # who has asked is heard in it, on a busy machine too
        await run.addresses()
        tasks, begun = await load_on(await run.addresses(), 2)
        await asyncio.wait_for(begun.wait(), PATIENCE)
        if how == "group":
            os.killpg(run.process.pid, signal.SIGINT)
        else:
            run.process.send_signal(signal.SIGTERM if how == "again and again" else getattr(signal, how))
        ended = asyncio.create_task(run.ends())
        while how == "again and again" and not ended.done():
            for number in (signal.SIGTERM, signal.SIGINT):
                if run.process.returncode is None:
                    run.process.send_signal(number)
            await asyncio.wait({ended}, timeout=0.02)
        answers = await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        code, log = await ended

        assert answers == ["count 4000"] * 2 + [counted] * 2 + ["count 4000"] * 2 + [counted] * 2
        assert (code, [line["message"] for line in log if line["level"] in ("warning", "error")]) == (0, [])


async def test_what_came_while_the_process_stood_still_is_read() -> None:
    """A process that gets no time for longer than a request's head may take reads what has arrived meanwhile before it judges."""
    async with process(upload_seconds=2) as run:
        await run.addresses()
        rest = (await run.addresses())["rest"].removeprefix("http://")
        reader, writer = await asyncio.open_connection(*rest.rsplit(":", 1))
        async with httpx.AsyncClient(base_url=f"http://{rest}") as client:
            assert (await client.get("/v2/health/live")).status_code == 200  # so the connection before it was taken, too
        run.process.send_signal(signal.SIGSTOP)
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        reply = asyncio.create_task(reader.read())
        await asyncio.wait({reply}, timeout=2.5)
        run.process.send_signal(signal.SIGCONT)

        assert (await asyncio.wait_for(reply, PATIENCE)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_signal_before_the_loop_runs_is_a_clean_stop() -> None:
    """Also while MLServer is still being imported."""
    async with process("early") as run:
        assert (await run.ends())[0] == 0


async def test_a_signal_while_a_model_loads_is_a_clean_stop() -> None:
    """Live while it loads; a load that hangs in its thread keeps neither the signal nor the process."""
    async with process("stuck") as run:
        addresses = await run.addresses()
        async with httpx.AsyncClient(base_url=addresses["rest"]) as client:
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.get("/v2/health/ready")).status_code == 503
        run.process.send_signal(signal.SIGTERM)
        assert (await run.ends())[0] == 0


@pytest.mark.parametrize(
    ("mode", "code", "reason"),
    [
        ("missing", 2, "model 'x' is not there (setting model); name another"),
        ("broken", 1, "the server broke: ValueError: no such shape"),
    ],
)
async def test_a_failed_load_ends_the_process_with_its_reason(mode: str, code: int, reason: str) -> None:
    """Not 0; one line at error level that says why, with no traceback."""
    async with process(mode) as run:
        ended, log = await run.ends()

        errors = [line for line in log if line["level"] == "error"]
        assert (ended, [(line["message"], "error" in line) for line in errors]) == (code, [(reason, False)])


async def test_a_taken_port_ends_the_process_at_once() -> None:
    """Before anything is loaded, and by the setting's name."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with process(rest_port=port) as run:
            code, log = await run.ends()

    reason = f"port {port} is taken (setting rest_port); stop what listens there, or choose another port or 0"
    assert (code, [line["message"] for line in log]) == (2, [reason])


@pytest.mark.parametrize("name", ["rest_port", "grpc_port", "metrics_port"])
async def test_each_port_is_ones_own(name: str) -> None:
    """A taken port is refused by its setting's name, gRPC's too, which would share it in silence."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is taken .setting {name}."):
            ports.demand_free(chosen(**{name: port}))
        with pytest.raises(StartError, match=f"port {port} is taken .setting {name}."):
            async with running(**{name: port}):
                pass


async def test_a_host_that_is_not_here_is_named() -> None:
    """The setting is named, not an errno."""
    with pytest.raises(StartError, match="setting host"):
        ports.demand_free(chosen(host="no.such.host.invalid"))
    with pytest.raises(StartError, match="settings host and rest_port"):
        ports.demand_free(chosen(host="192.0.2.1"))


async def test_a_server_can_start_where_one_just_ended() -> None:
    """Ports are free at once."""
    async with running() as run:
        port = int(run.rest.rpartition(":")[2])
        await run.client.get("/v2")
    async with running(rest_port=port) as run:
        assert (await run.client.get("/v2")).status_code == 200
