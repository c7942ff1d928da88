"""A real server on free ports in this process, with a model whose every answer a test decides."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
from grpc import aio
from mlserver import ModelSettings
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

from pilothouse.server import drain
from pilothouse.server.app import PilothouseServer
from pilothouse.server.health import Phase
from pilothouse.settings import Settings, load
from server.toy import Toy, toy_settings
from support import planted

PATIENCE = 20.0  # seconds a test waits for what must happen
EVERY = 10  # servers: so often the run's secret is planted into one (support/planted.py)

_SERVERS = count()


@dataclass
class Running:
    """A server that listens, and how to reach it."""

    server: PilothouseServer
    rest: str
    grpc: str
    metrics: str
    client: httpx.AsyncClient
    stub: GRPCInferenceServiceStub
    channel: aio.Channel

    @property
    def toy(self) -> Toy:
        return self.server.catalog.all()[0]  # type: ignore[return-value]  # the model of these tests

    async def load(self, *models: ModelSettings) -> None:
        await self.server.load(models or (toy_settings(),))

    def leave(self, lame_duck: float = 0.0, drain_seconds: float = 5.0) -> "asyncio.Task[None]":
        """Start the server's way out."""
        return asyncio.create_task(drain.leave(self.server, lame_duck_seconds=lame_duck, drain_seconds=drain_seconds))


@asynccontextmanager
async def running(*, loaded: bool = True, headers: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Running]:
    """A server with `settings`, its toy model loaded unless told otherwise."""
    server = PilothouseServer(chosen(**settings))
    ports = await server.listen()
    rest, grpc_address = f"http://127.0.0.1:{ports['rest']}", f"127.0.0.1:{ports['grpc']}"
    try:
        async with (
            httpx.AsyncClient(base_url=rest, timeout=PATIENCE, headers=headers) as client,
            aio.insecure_channel(grpc_address) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            run = Running(server, rest, grpc_address, f"http://127.0.0.1:{ports['metrics']}", client, stub, channel)
            if loaded:
                await run.load()
            yield run
            if planted.PLACE in os.environ and next(_SERVERS) % EVERY == 0 and server.health.phase is Phase.SERVING:
                await asyncio.to_thread(planted.plant, rest, "toy")
                planted.keep(f"running-{ports['rest']}", metrics=server.metrics.render())
    finally:
        if server.health.phase is not Phase.CLOSED:
            await drain.leave(server, lame_duck_seconds=0, drain_seconds=2)


def chosen(**settings: Any) -> Settings:
    """Settings of a test: free ports of the loopback address."""
    return load(**{"rest_port": 0, "grpc_port": 0, "metrics_port": 0, **settings})


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until `condition` holds; fails after `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # state of the server that sends no event
            await asyncio.sleep(0.001)


async def bounded(awaitable: Awaitable[Any]) -> Any:
    """The result of `awaitable`, which must come in time."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable
