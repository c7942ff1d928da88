"""Starting and stopping: D1 to D7, D25, E1, E5, E8."""

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from record import calls
from record.case import Seen, case
from record.hosts import Host, Ports, waited
from record.sides import MODEL, TOY, Ours, Side, Stock, gate_model

LONG = 70  # steps of 100 ms: longer than the five seconds that stock gives gRPC
SHORT = 20
BOUND = 20.0  # seconds after which ours is over: seven of work, ten of an upload's patience, and the way out


# -- starting ------------------------------------------------------------------------------------------------------------------------


async def default_start(side: Side) -> Host:
    """Every setting at its default but the ports; up, or over."""
    if isinstance(side, Ours):
        return await side.pocket()
    assert isinstance(side, Stock)
    stock = side

    async def start() -> Host:
        host = await stock.start("default", {MODEL: TOY}, wait=False)

        async def decided() -> bool:
            return host.over or await host.status(f"/v2/models/{MODEL}/ready") == "200"

        await waited(decided, 200)
        return host

    return await side.once("default", start)


@case(
    "D1",
    "The default, one parallel worker, does not start on the event loop that is installed with it",
    {"started with its defaults": ("never ready; exit code 0", "ready, and answers")},
)
async def d1(side: Side) -> Seen:
    host = await default_start(side)
    if host.over:
        return {"started with its defaults": f"never ready; {await host.ended()}"}
    reply = await calls.post(host, calls.infer(MODEL if side.stock else "pocket"), calls.body())
    return {"started with its defaults": "ready, and answers" if reply.status_code == 200 else "neither ready nor over"}


@case(
    "E1",
    "What pip resolves today dies in the worker (MLServer issue 2286)",
    {"its log": ("There is no current event loop in thread 'MainThread'", "no error")},
)
async def e1(side: Side) -> Seen:
    log = (await default_start(side)).log.read_text()
    sentence = "There is no current event loop in thread 'MainThread'"
    return {"its log": sentence if sentence in log else "errors" if "Traceback" in log or '"error"' in log else "no error"}


@contextmanager
def open_call(host: Host) -> Iterator[None]:
    """A gRPC stream that has begun and says nothing."""
    end = threading.Event()

    def silence() -> Iterator[bytes]:
        end.wait()
        yield from ()

    with grpc.insecure_channel(host.grpc) as channel:
        grpc.channel_ready_future(channel).result(timeout=30)
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(silence())
        try:
            yield
        finally:
            end.set()
            call.cancel()


async def failing_load(side: Side) -> tuple[str, str]:
    """The exit code of a start whose model fails to load while somebody asks for readiness, and readiness' answers, each once, in order."""
    said: list[str] = []
    if isinstance(side, Ours):
        model, doors = gate_model(side.folder("failing-model"))
        door = doors / "loads"
        host = await side.start("failing", str(model), wait=False, allow_model_code=True)
    else:
        assert isinstance(side, Stock)
        door = side.folder("door")
        about = {**TOY, "parameters": {"extra": {"gate": str(door)}}}
        host = await side.start("failing", {MODEL: about}, wait=False, parallel_workers=0)

    async def asked() -> str:
        status = await host.status()
        if not said or said[-1] != status:
            said.append(status)
        return status

    async def up() -> bool:
        # Stock's port opens before the load begins: readiness of no model is true.
        return await asked() in ("400", "503")

    async def decided() -> bool:
        return await asked() in ("200", "refused") or host.over

    await host.until(up)
    said[:] = said[-1:]
    # An open stream stretches stock's last moments, since it waits five seconds for streams: long enough to see what readiness says then.
    with open_call(host):
        door.write_text("the weights are broken")
        await waited(decided, 30)
    return await host.ended(), ", then ".join(said)


@case("D7", "A model that fails to load ends the process as if all were well", {"after a failed load": ("exit code 0", "exit code 2")})
async def d7(side: Side) -> Seen:
    return {"after a failed load": (await side.once("failing", lambda: failing_load(side)))[0]}


@case(
    "E8",
    "Readiness turns true just before the process with the failed load ends",
    {"/v2/health/ready until the end": ("400, then 200", "503, then refused")},
)
async def e8(side: Side) -> Seen:
    return {"/v2/health/ready until the end": (await side.once("failing", lambda: failing_load(side)))[1]}


# -- stopping ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Farewell:
    """What four requests and a probe saw of a host that was told to stop while it answered them."""

    unary: str
    stream: str
    grpc_unary: str
    grpc_stream: str
    probe: str
    newcomer: str
    stalled: str
    end: str


async def farewell(host: Host, number: int, steps: int, *, grpc: bool = True, bound: float = BOUND) -> Farewell:
    """Requests under way, with gRPC's also half a body beside them; then the signal. Everything is waited for, with a bound."""
    begun = [asyncio.Event(), asyncio.Event()]
    rest_pieces: list[bytes] = []
    grpc_pieces: list[Any] = []
    asked = calls.body(max_tokens=steps)

    async def unary(content: dict[str, Any] = asked) -> str:
        try:
            reply = await calls.post(host, calls.infer(), content)
        except httpx.ConnectError:
            return "refused"
        except httpx.TransportError:
            return "cut"
        return "whole" if reply.status_code == 200 else calls.form(reply)

    async def stream() -> str:
        how = await calls.collect(host, calls.infer(verb="infer_stream"), asked, into=rest_pieces, began=begun[0])
        return calls.whole(how, len(rest_pieces), calls.rest_tokens(rest_pieces), steps)

    async with calls.stubs(host) as stub:

        async def grpc_unary() -> str:
            said = await calls.code(stub.ModelInfer(calls.message(max_tokens=steps)))
            return "whole" if said == "OK" else said

        async def grpc_stream() -> str:
            how = await calls.grpc_stream(stub, calls.message(max_tokens=steps), into=grpc_pieces, began=begun[1])
            return calls.whole(how, len(grpc_pieces), calls.grpc_tokens(grpc_pieces), steps)

        kinds = (unary, stream, grpc_unary, grpc_stream) if grpc else (unary, stream)
        tasks = [asyncio.create_task(kind()) for kind in kinds]
        writer = await half_a_body(host) if grpc else None
        async with asyncio.timeout(30):
            await asyncio.gather(*[event.wait() for event in begun[: len(kinds) // 2]])
        host.signal(number)
        told = time.monotonic()

        async def unready() -> bool:
            return await host.status() != "200"

        await waited(unready, 5)
        probe, newcomer = await host.status(), await unary(calls.body(max_tokens=1))
        answers = [*await asyncio.gather(*tasks), "", ""][:4]
    end = await host.ended(max(0.1, told + bound - time.monotonic()))
    stalled = f"still there after {bound:g} s" if end == "still running" else "does not hold it"
    if writer is not None:
        writer.close()
    return Farewell(*answers, probe, newcomer, stalled, end if end != "still running" else await host.ended(10))


async def half_a_body(host: Host) -> asyncio.StreamWriter:
    """A client that stops in the middle of its upload."""
    _, writer = await asyncio.open_connection("127.0.0.1", host.ports.rest)
    writer.write(f"POST {calls.infer()} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
    await writer.drain()
    return writer


async def sigterm(side: Side) -> Farewell:
    async def leave() -> Farewell:
        return await farewell(await side.steady(), signal.SIGTERM, LONG)

    return await side.once("SIGTERM", leave)


@case(
    "D2",
    "SIGTERM with parallel workers: every request under way dies at once",
    {"REST, unary": ("lost", "whole"), "gRPC, unary": ("lost", "whole")},
)
async def d2(side: Side) -> Seen:
    async def workers() -> Farewell:
        assert isinstance(side, Stock)
        host = await side.workers()
        return await unary_farewell(host)

    seen = await side.once("workers' end", workers) if side.stock else await sigterm(side)
    answers = {"REST, unary": seen.unary, "gRPC, unary": seen.grpc_unary}
    return {tried: "whole" if said == "whole" else "lost" for tried, said in answers.items()}  # with 500, UNAVAILABLE, INTERNAL or a cut


async def unary_farewell(host: Host) -> Farewell:
    """SIGTERM under a unary request of each kind; what runs in a worker says so in the log only."""
    asked = calls.body(max_tokens=200)
    async with calls.stubs(host) as stub:
        rest = asyncio.create_task(calls.post(host, calls.infer(), asked))
        call = asyncio.create_task(calls.code(stub.ModelInfer(calls.message(max_tokens=200))))

        async def begun() -> bool:
            return host.log.read_text().count("begun") == 2

        await host.until(begun)
        host.signal(signal.SIGTERM)
        try:
            reply = await rest
            unary = "whole" if reply.status_code == 200 else calls.form(reply)
        except httpx.TransportError:
            unary = "cut"
        said = await call
        return Farewell(unary, "", "whole" if said == "OK" else said, "", "", "", "", await host.ended(10))


@case(
    "D3",
    "gRPC is cut five seconds after SIGTERM, whatever runs",
    {"a unary call of seven seconds": ("UNAVAILABLE", "whole"), "a stream of seven seconds": ("UNAVAILABLE, after a part", "whole")},
)
async def d3(side: Side) -> Seen:
    seen = await sigterm(side)
    return {"a unary call of seven seconds": seen.grpc_unary, "a stream of seven seconds": seen.grpc_stream}


@case(
    "D4",
    "One client with half a body keeps the process alive without bound",
    {
        "SIGTERM, a client in the middle of its upload": ("still there after 20 s", "does not hold it"),
        "REST, unary and stream": ("whole, whole", "whole, whole"),
    },
)
async def d4(side: Side) -> Seen:
    seen = await sigterm(side)
    return {"SIGTERM, a client in the middle of its upload": seen.stalled, "REST, unary and stream": f"{seen.unary}, {seen.stream}"}


@case(
    "D5",
    "No lame duck: the listener closes at once, readiness is never turned off",
    {"/v2/health/ready after SIGTERM": ("refused", "503"), "a new request after SIGTERM": ("refused", "whole")},
)
async def d5(side: Side) -> Seen:
    seen = await sigterm(side)
    return {"/v2/health/ready after SIGTERM": seen.probe, "a new request after SIGTERM": seen.newcomer}


@case(
    "E5",
    "SIGTERM during a REST stream: the stream is finished and the process exits with 0; but no new connection is taken meanwhile",
    {"the stream": ("whole", "whole"), "the process": ("exit code 0", "exit code 0"), "a new request meanwhile": ("refused", "whole")},
    good=True,
)
async def e5(side: Side) -> Seen:
    seen = await sigterm(side)
    return {"the stream": seen.stream, "the process": seen.end, "a new request meanwhile": seen.newcomer}


@case(
    "D6",
    "Ctrl-C loses what is under way",
    {"REST, unary": ("500 text/plain", "whole"), "REST, stream": ("cut, after a part", "whole")},
)
async def d6(side: Side) -> Seen:
    seen = await farewell(await side.steady(), signal.SIGINT, SHORT, grpc=False)
    return {"REST, unary": seen.unary, "REST, stream": seen.stream}


# -- ports ---------------------------------------------------------------------------------------------------------------------------


@case(
    "D25",
    "A gRPC port that is taken is shared in silence",
    {"its REST port is taken": ("exit code 3", "exit code 2"), "its gRPC port is taken": ("both listen, either answers", "exit code 2")},
)
async def d25(side: Side) -> Seen:
    there, free = (await side.plain()).ports, Ports.free()
    rest_taken = Ports(there.rest, free.grpc, free.metrics)
    if isinstance(side, Stock):
        rest = await side.start("rest-taken", {MODEL: TOY}, wait=False, ports=rest_taken, parallel_workers=0)
        there, free = (await side.second()).ports, Ports.free()
        # Waits until it is ready. From then on the second's callers are answered by either.
        grpc_ = await side.start("grpc-taken", {MODEL: TOY}, ports=Ports(free.rest, there.grpc, free.metrics), parallel_workers=0)
        grpc_.end()
        return {"its REST port is taken": await rest.ended(), "its gRPC port is taken": "both listen, either answers"}
    assert isinstance(side, Ours)
    rest = await side.start("rest-taken", wait=False, ports=rest_taken)
    grpc_ = await side.start("grpc-taken", wait=False, ports=Ports(free.rest, there.grpc, free.metrics))
    return {"its REST port is taken": await rest.ended(), "its gRPC port is taken": await grpc_.ended()}
