"""What the protocol's own clients get: D15, D16, D17."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from record import calls
from record.case import Seen, case
from record.sides import MODEL, Side

TRITON = Path(__file__).with_name("with_triton.py")


async def triton(side: Side) -> dict[str, Any]:
    """What Triton's clients got, in a process of their own: their messages can't be registered beside MLServer's."""

    async def ask() -> dict[str, Any]:
        host = await side.plain()
        pipe = asyncio.subprocess.PIPE
        command = [sys.executable, str(TRITON), host.rest.removeprefix("http://"), host.grpc, MODEL, str(calls.STEPS)]
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        out, problems = await process.communicate()  # it ends itself: with its stack, where a call hangs
        whose = "stock" if side.stock else "ours"
        assert process.returncode == 0, f"{whose}: {problems.decode()[-3000:]}\nits log: {host.log.read_text()[-2000:]}"
        return dict(json.loads(out))

    return await side.once("triton", ask)


@case(
    "D15",
    "Triton's client cannot read the gRPC stream: each chunk is an error with the model's name as its text",
    {"tritonclient.grpc, a stream of 16 tokens": ("16 errors: scripted", "16 tokens")},
)
async def d15(side: Side) -> Seen:
    return {"tritonclient.grpc, a stream of 16 tokens": (await triton(side))["stream"]}


@case(
    "D16",
    "Triton's HTTP client fails with its own defaults, and dies of the error's form",
    {
        "infer, binary (the default)": ("the client can't read the error", "OK"),
        "infer, deflate": ("the client can't read the error", "OK"),
        "infer, JSON": ("OK", "OK"),
        "infer, JSON, gzip": ("OK", "OK"),
        "gRPC infer": ("OK", "OK"),
        "live, ready, metadata": ("OK", "OK"),
        "model repository index": ("the client can't read the error", "404: a sentence"),
        "model config": ("the client can't read the error", "404: a sentence"),
        "statistics": ("404: a sentence", "404: a sentence"),
    },
)
async def d16(side: Side) -> Seen:
    return dict((await triton(side))["http"])


@case(
    "D17",
    "gRPC has neither the standard health service nor reflection; an empty stream breaks the servicer",
    {
        "grpc.health.v1": ("UNIMPLEMENTED", "SERVING"),
        "reflection": ("UNIMPLEMENTED", "lists the services"),
        "a stream without a request": ("INTERNAL: cannot access local variable", "OK"),
    },
)
async def d17(side: Side) -> Seen:
    host = await side.plain()
    async with aio.insecure_channel(host.grpc) as channel, calls.stubs(host) as stub:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            health = str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
        except grpc.RpcError as error:
            health = str(error.code().name)
        return {"grpc.health.v1": health, "reflection": await reflected(channel), "a stream without a request": await empty(stub)}


async def reflected(channel: Any, tries: int = 20) -> str:
    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    try:
        answers = [a async for a in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests())]
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL and tries > 1:  # the client's own word where its request met the end of the call
            return await reflected(channel, tries - 1)
        return str(error.code().name)
    names = [service.name for service in answers[0].list_services_response.service]
    return "lists the services" if "inference.GRPCInferenceService" in names else str(names)


async def empty(stub: Any) -> str:
    async def nothing() -> AsyncIterator[Any]:
        for none in ():
            yield none

    try:
        async for _ in stub.ModelStreamInfer(nothing(), metadata=calls.OURS):
            pass
    except grpc.RpcError as error:
        words = "cannot access local variable"
        return f"{error.code().name}: {words if words in error.details() else error.details()}"
    return "OK"
