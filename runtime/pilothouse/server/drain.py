"""The way out: first not ready but still answering, then closed to new requests while the running ones finish, then an end.

Nothing that was taken is lost while there is time for it, and nothing holds the process when there is not: not a body that never comes,
not a stream that never ends, not an engine that hangs.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from pilothouse.server.health import Phase

if TYPE_CHECKING:
    from pilothouse.server.app import PilothouseServer

log = logging.getLogger("pilothouse.server")

FLUSH_SECONDS = 0.5  # for a last error to reach its client
UNLOAD_SECONDS = 1.0
SETTLE_SECONDS = 0.3  # of refusals by name before gRPC's port closes, where calls come in numbers


async def leave(server: "PilothouseServer", *, lame_duck_seconds: float, drain_seconds: float) -> bool:
    """Stop `server`; returns within the two times and two seconds, whatever its clients do. Whether its models ended, too."""
    server.health.phase = Phase.LEAVING
    if lame_duck_seconds:
        await asyncio.sleep(lame_duck_seconds)
    server.health.phase = Phase.CLOSED
    await server.rest.stop()
    rest = server.tasks[0]
    calls = asyncio.create_task(server.grpc.stop(drain_seconds + 10, settle=min(SETTLE_SECONDS, drain_seconds)))
    unloaded = True
    if not await _within(drain_seconds, rest, calls):
        if drain_seconds:  # else nobody was promised any
            log.warning("draining: time is up with %d REST requests; ending what still runs", server.rest.busy)
        # An engine that stops ends its answers with an error each, which their clients may still read.
        unloaded = await _within(UNLOAD_SECONDS, asyncio.create_task(server.unload()))
        await _within(FLUSH_SECONDS, rest, calls)
        server.rest.cut()
        await _within(FLUSH_SECONDS, rest, calls, asyncio.create_task(server.grpc.stop(None)))
    else:
        unloaded = await _within(UNLOAD_SECONDS, asyncio.create_task(server.unload()))
    if server.traces is not None:
        await server.traces.close(FLUSH_SECONDS)
    server.watching.cancel()
    server.metrics_server.stop()
    await _within(FLUSH_SECONDS, *server.tasks)
    return unloaded


async def _within(seconds: float, *tasks: "asyncio.Task[None]") -> bool:
    """Wait for all of `tasks`; whether they ended in time."""
    _, late = await asyncio.wait(tasks, timeout=max(seconds, 0.01))
    return not late
