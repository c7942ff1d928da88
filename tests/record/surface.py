"""What anyone who reaches the ports can do: D12, D13, D14."""

import asyncio
import re
import time
import zlib
from pathlib import Path

import httpx
from grpc import aio
from mlserver.grpc import model_repository_pb2 as repository
from mlserver.grpc.model_repository_pb2_grpc import ModelRepositoryServiceStub

from record import calls
from record.case import Seen, case
from record.hosts import Host
from record.sides import Ours, Side

MIB = 1 << 20
INFLATED = 128 * MIB
NAMES = 100


@case(
    "D12",
    "Anyone may list, unload and load models, over REST and gRPC; there is no switch",
    {
        "POST /v2/repository/index": ("200", '404 {"error"}'),
        "POST /v2/repository/models/NAME/unload": ("200, and it no longer answers", '404 {"error"}, and it answers'),
        "POST /v2/repository/models/NAME/load": ("200", '404 {"error"}'),
        "gRPC RepositoryIndex": ("OK", "UNIMPLEMENTED"),
        "gRPC RepositoryModelUnload": ("OK", "UNIMPLEMENTED"),
    },
)
async def d12(side: Side) -> Seen:
    host = await side.plain()
    name = "spare" if side.stock else "scripted"
    seen: Seen = {"POST /v2/repository/index": calls.form(await calls.post(host, "/v2/repository/index", {}))}
    unload = calls.form(await calls.post(host, f"/v2/repository/models/{name}/unload", b""))
    answers = (await calls.post(host, calls.infer(name), calls.body())).status_code == 200
    seen["POST /v2/repository/models/NAME/unload"] = f"{unload}, and it {'answers' if answers else 'no longer answers'}"
    seen["POST /v2/repository/models/NAME/load"] = calls.form(await calls.post(host, f"/v2/repository/models/{name}/load", b""))
    async with aio.insecure_channel(host.grpc) as channel:
        stub = ModelRepositoryServiceStub(channel)
        seen["gRPC RepositoryIndex"] = await calls.code(stub.RepositoryIndex(repository.RepositoryIndexRequest()))
        gone = repository.RepositoryModelUnloadRequest(model_name=name)
        seen["gRPC RepositoryModelUnload"] = await calls.code(stub.RepositoryModelUnload(gone))
    await calls.post(host, f"/v2/repository/models/{name}/load", b"")  # as it was
    return seen


def peak(host: Host) -> int:
    """The most memory that the process ever had, in bytes."""
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def bomb() -> bytes:
    """An inference request of 128 MiB, in about as many KiB of gzip."""
    head, _, tail = b'{"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["@"]}]}'.partition(b"@")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [squeeze.compress(head), *(squeeze.compress(b" " * MIB) for _ in range(INFLATED // MIB)), squeeze.compress(tail)]
    return b"".join([*parts, squeeze.flush()])


@case(
    "D13",
    "No limits: bodies, what they inflate to, and how many requests are taken at once",
    {
        "16 MiB of JSON": ("200", '413 {"error"}'),
        "a gzip body that inflates to 128 MiB": ("200; memory grows by more than that", '413 {"error"}; memory stays'),
        "40 requests at once": ("all taken", "some taken, the rest 429 with Retry-After"),
        "a gRPC message of 5 MiB": ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"),
    },
)
async def d13(side: Side) -> Seen:
    host = await side.plain()
    seen: Seen = {"16 MiB of JSON": calls.form(await calls.post(host, calls.infer(), calls.body("x" * 16 * MIB)))}
    before = peak(host)
    reply = await calls.post(host, calls.infer(), bomb(), headers={"Content-Encoding": "gzip"})
    grown = peak(host) - before
    memory = "grows by more than that" if grown > INFLATED else "stays" if grown < 16 * MIB else f"grows by {grown // MIB} MiB"
    seen["a gzip body that inflates to 128 MiB"] = f"{calls.form(reply)}; memory {memory}"
    crowded = await side.narrow() if isinstance(side, Ours) else host
    async with calls.client(crowded) as client:
        replies = await asyncio.gather(*[client.post(calls.infer(), json=calls.body()) for _ in range(40)])
    kinds = {"retry" if r.status_code == 429 and int(r.headers["retry-after"]) > 0 else str(r.status_code) for r in replies}
    said = {frozenset({"200"}): "all taken", frozenset({"200", "retry"}): "some taken, the rest 429 with Retry-After"}
    seen["40 requests at once"] = said.get(frozenset(kinds), str(kinds))
    async with calls.stubs(host) as stub:
        seen["a gRPC message of 5 MiB"] = await calls.code(stub.ModelInfer(calls.message("x" * 5 * MIB)))
    return seen


async def series(host: Host) -> int:
    """How many time series the host tells of."""
    return len([line for line in (await scrape(host)).splitlines() if line and not line.startswith("#")])


async def scrape(host: Host, path: str = "/metrics") -> str:
    async with httpx.AsyncClient() as client:
        reply = await client.get(f"http://127.0.0.1:{host.ports.metrics}{path}", follow_redirects=True)
        return reply.text if reply.status_code == 200 else str(reply.status_code)


@case(
    "D14",
    "Every name that a caller invents becomes a metric; headers are echoed; connections are kept for only five seconds",
    {
        "100 requests to 100 invented models": ("more than 100 new series", "no new series"),
        "the metrics port": ("also /docs and /openapi.json", "/metrics only"),
        "an idle connection": ("closed within 8 s, before common proxies close theirs", "kept"),
        "the caller's headers in a stream's events": ("repeated", "not repeated"),
    },
)
async def d14(side: Side) -> Seen:
    host = await side.plain()
    reader, writer = await asyncio.open_connection("127.0.0.1", host.ports.rest)
    writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    asked_at = time.monotonic()

    await calls.post(host, calls.infer("nobody-0"), calls.body())
    before = await series(host)
    async with calls.client(host) as client:
        await asyncio.gather(*[client.post(calls.infer(f"nobody-{n}"), json=calls.body()) for n in range(1, NAMES + 1)])
    grown = await series(host) - before
    docs = [path for path in ("/docs", "/openapi.json") if await scrape(host, path) != "404"]
    pieces: list[bytes] = []
    await calls.collect(host, calls.infer(verb="infer_stream"), calls.body(), into=pieces)
    try:
        async with asyncio.timeout(max(0.0, asked_at + 8 - time.monotonic())):
            while await reader.read(4096):
                pass
        idle = "closed within 8 s, before common proxies close theirs"
    except TimeoutError:
        idle = "kept"
    writer.close()
    return {
        "100 requests to 100 invented models": f"more than {NAMES} new series" if grown > NAMES else f"{grown or 'no'} new series",
        "the metrics port": f"also {' and '.join(docs)}" if docs else "/metrics only",
        "an idle connection": idle,
        "the caller's headers in a stream's events": "repeated" if b'"headers"' in b"".join(pieces) else "not repeated",
    }
