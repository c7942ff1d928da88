"""How cases speak to either host, and how they put what they heard into words that do not change from run to run."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
from grpc import aio
from mlserver.grpc import dataplane_pb2 as pb

from record.hosts import Host

OURS = (("pilothouse-stream", "mlserver"),)
"""Asks our gRPC stream for MLServer's message; stock ignores it."""
STEPS = 16
BREAKS = "Break, break, break"


def body(prompt: str = "hello", **parameters: Any) -> dict[str, Any]:
    """A request for exactly `max_tokens` words: ours samples, and would end where its end token is drawn."""
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [prompt], "parameters": {"content_type": "str"}}
    return {"inputs": [tensor], "parameters": {"max_tokens": STEPS, "ignore_eos": True, **parameters}}


def message(prompt: str = "hello", model: str = "scripted", max_tokens: int = STEPS) -> Any:
    """`body` over gRPC."""
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [prompt.encode()]}}
    parameters = {"max_tokens": pb.InferParameter(int64_param=max_tokens), "ignore_eos": pb.InferParameter(bool_param=True)}
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], parameters=parameters)


@asynccontextmanager
async def client(host: Host, timeout: float = 30.0) -> AsyncIterator[httpx.AsyncClient]:
    """HTTP to a host, no connection kept longer than the block."""
    async with httpx.AsyncClient(base_url=host.rest, timeout=timeout) as made:
        yield made


@asynccontextmanager
async def stubs(host: Host) -> AsyncIterator[Any]:
    """MLServer's gRPC stub to a host."""
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    async with aio.insecure_channel(host.grpc) as channel:
        yield GRPCInferenceServiceStub(channel)


async def post(host: Host, path: str, content: Any, *, timeout: float = 30.0, headers: dict[str, str] | None = None) -> httpx.Response:
    """One POST on a connection of its own; `content` is bytes as they are, or JSON."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    async with client(host, timeout) as made:
        return await made.post(path, content=data, headers={"Content-Type": "application/json", **(headers or {})})


def infer(model: str = "scripted", verb: str = "infer") -> str:
    return f"/v2/models/{model}/{verb}"


def form(reply: httpx.Response) -> str:
    """Status and shape: `400 {"error"}`, `422 {"detail"}`, `500 text/plain`."""
    kind = reply.headers.get("content-type", "").partition(";")[0]
    try:
        said = reply.json()
    except ValueError:
        return f"{reply.status_code} {kind}".strip()
    if isinstance(said, dict) and reply.status_code >= 400:
        return f"{reply.status_code} {{{', '.join(json.dumps(key) for key in said)}}}"
    return str(reply.status_code)


def answer(reply: httpx.Response) -> str:
    """What a model said, in its output's first row."""
    return str(reply.json()["outputs"][0]["data"][0])


def counted(reply: httpx.Response) -> int:
    """How many tokens an answer has, as the host counts."""
    return int(reply.json()["parameters"]["completion_tokens"])


async def code(call: Awaitable[Any]) -> str:
    """A call's status: OK, or the error's name."""
    try:
        await call
    except aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


async def failed(call: Awaitable[Any]) -> tuple[str, str]:
    """A call's status and its words."""
    try:
        await call
    except aio.AioRpcError as error:
        return str(error.code().name), str(error.details())
    return "OK", ""


async def within(seconds: float, awaitable: Awaitable[Any], late: str) -> Any:
    """The result, or `late`."""
    try:
        async with asyncio.timeout(seconds):
            return await awaitable
    except TimeoutError:
        return late


def events(text: str) -> list[Any]:
    """The data of server-sent events; what is no JSON stays text."""
    found: list[Any] = []
    for line in text.splitlines():
        if line.startswith("data:"):
            data = line[5:].strip()
            try:
                found.append(json.loads(data))
            except ValueError:
                found.append(data)
    return found


async def collect(
    host: Host, path: str, content: Any, *, into: list[bytes], began: asyncio.Event | None = None, headers: dict[str, str] | None = None
) -> str:
    """Read a stream piece by piece into `into`; how its transport ended: "ended", "cut", or the status where it is no stream."""
    try:
        async with client(host) as made, made.stream("POST", path, json=content, headers=headers) as reply:
            if reply.status_code != 200:
                await reply.aread()
                return form(reply)
            async for piece in reply.aiter_raw():
                into.append(piece)
                if began:
                    began.set()
    except httpx.TransportError:
        return "cut"
    return "ended"


async def grpc_stream(stub: Any, *messages: Any, into: list[Any], began: asyncio.Event | None = None) -> str:
    """Read a gRPC stream into `into`; its status."""

    async def requests() -> AsyncIterator[Any]:
        for one in messages:
            yield one

    try:
        async for piece in stub.ModelStreamInfer(requests(), metadata=OURS):
            into.append(piece)
            if began:
                began.set()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def whole(how: str, pieces: int, tokens: int, wanted: int) -> str:
    """How a stream of `wanted` tokens came, which both hosts count in its pieces."""
    return "whole" if tokens == wanted and how in ("ended", "OK") else f"{how}, after a part" if pieces else how


def rest_tokens(pieces: list[bytes]) -> int:
    """The tokens that a V2 stream's events count."""
    return sum(
        event.get("parameters", {}).get("completion_tokens", 0) for event in events(b"".join(pieces).decode()) if isinstance(event, dict)
    )


def grpc_tokens(pieces: list[Any]) -> int:
    """The tokens that a gRPC stream's messages count."""
    return sum(piece.parameters["completion_tokens"].int64_param for piece in pieces if "completion_tokens" in piece.parameters)


async def told(host: Host) -> dict[str, Any]:
    """What stock's toy runtime says of itself."""
    async with client(host) as made:
        return dict((await made.get("/toy")).json())
