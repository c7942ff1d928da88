"""The way out: what was taken is answered, what stalls is ended, and both are bounded."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
from grpc import aio
from mlserver.grpc import dataplane_pb2 as pb

from server.raw import connected
from server.running import PATIENCE, Running, bounded, running, until
from server.test_grpc import MLSERVER, STREAM, asked, triton
from server.test_v2_rest import INFER, events, tensor
from support.refusals import refused


async def held(run: Running) -> list["asyncio.Task[Any]"]:
    """One of each kind of request, all of them in the middle of their answers."""

    async def words() -> str:
        reply = await run.client.post("/v2/models/toy/generate_stream", json={"text_input": "hold on now"})
        return "".join(event["text_output"] for event in events(reply.text))

    async def stream() -> str:
        async def requests() -> AsyncIterator[Any]:
            yield asked("hold on now")

        answers = [answer async for answer in run.stub.ModelStreamInfer(requests(), metadata=MLSERVER)]
        return "".join(answer.outputs[0].contents.bytes_contents[0].decode() for answer in answers)

    async def unary() -> str:
        return str((await run.client.post(INFER, json=tensor("hold on now"))).json()["outputs"][0]["data"][0])

    async def grpc() -> str:
        return str((await run.stub.ModelInfer(asked("hold on now"))).outputs[0].contents.bytes_contents[0].decode())

    async def openai() -> str:
        return (await run.client.post("/v1/echo", content=b"hold on now")).text

    tasks = [asyncio.create_task(kind()) for kind in (words, stream, unary, grpc, openai) for _ in range(2)]
    await until(lambda: run.toy.gate.running == len(tasks))
    return tasks


WHOLE = ["held hold on now "] * 4 + ["hold on now"] * 6


async def test_running_requests_are_finished() -> None:
    """REST unary and streams, gRPC unary and streams, OpenAI: every answer taken before the end is whole."""
    async with running() as run:
        tasks = await held(run)
        leaving = run.leave()
        await until(lambda: not run.server.rest._server.servers[0].is_serving())
        run.toy.gate.open.set()

        assert await bounded(asyncio.gather(*tasks)) == WHOLE
        await bounded(leaving)


async def test_a_lame_duck_still_answers() -> None:
    """Readiness is off at once everywhere, while new connections and requests are still taken, and told not to stay."""
    async with running() as run:
        leaving = run.leave(lame_duck=1.0)
        await until(lambda: run.server.health.leaving)
        ready = await run.client.get("/v2/health/ready")
        async with httpx.AsyncClient(base_url=run.rest) as fresh:
            answer = await fresh.post(INFER, json=tensor("hi"))
            ping, model = await fresh.get("/ping"), await fresh.get("/v2/models/toy/ready")
        live = await run.client.get("/v2/health/live")
        grpc_ready = await run.stub.ServerReady(pb.ServerReadyRequest())
        grpc_answer = await run.stub.ModelInfer(asked("hi"))

        assert (ready.status_code, ready.json()) == (503, {"ready": False, "error": "the server is draining"})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert (ping.status_code, model.status_code, live.status_code) == (503, 503, 200)
        assert (grpc_ready.ready, grpc_answer.model_name) == (False, "toy")
        assert not leaving.done()
        await bounded(leaving)


async def test_what_stalls_is_ended() -> None:
    """A stalled upload, endless streams and endless calls hold the server for the drain's time and no longer."""
    async with running() as run, connected(run) as upload:
        await upload.post(INFER, b"{", length=100)
        tasks = await held(run)
        began = time.monotonic()
        await bounded(run.leave(drain_seconds=0.3))

        assert time.monotonic() - began < 0.3 + 2.0
        await asyncio.wait_for(asyncio.wait(tasks), 5)
        assert run.toy.gate.running == 0


async def test_a_cut_stream_ends_with_an_error() -> None:
    """When time is up the engine stops first, so that each client reads why: 503, a last event, UNAVAILABLE."""
    async with running() as run:
        unary = asyncio.create_task(run.client.post(INFER, json=tensor("hold on")))
        stream = asyncio.create_task(run.client.post("/v2/models/toy/infer_stream", json=tensor("hold on")))
        call = run.channel.stream_stream(STREAM)(_one(asked("hold on").SerializeToString()))
        first = await call.read()
        await until(lambda: run.toy.gate.running == 3)
        await bounded(run.leave(drain_seconds=0.2))

        assert ((await unary).status_code, (await unary).json()) == (503, {"error": "the engine was stopped"})
        assert events((await stream).text)[-1] == {"error": "the engine was stopped"}
        assert (triton(first)[0], triton(await call.read())[0]) == ("", "the engine was stopped")


async def _one(item: Any) -> AsyncIterator[Any]:
    yield item


async def test_an_idle_stream_does_not_hold_the_end() -> None:
    """A gRPC stream that waits for its client's next request is ended well, at once."""
    async with running() as run:
        more = asyncio.Event()

        async def requests() -> AsyncIterator[Any]:
            yield asked("hi").SerializeToString()
            await more.wait()

        stream = run.channel.stream_stream(STREAM)(requests())
        assert triton(await stream.read())[0] == ""
        began = time.monotonic()
        await bounded(run.leave(drain_seconds=10))

        assert time.monotonic() - began < 2.0
        assert (await stream.code()).name == "OK"


async def test_idle_connections_do_not_hold_the_end() -> None:
    """Neither a kept connection, nor one that never spoke, nor half a head is waited for."""
    async with running() as run, connected(run) as silent, connected(run) as half:
        await run.client.get("/v2")
        await half.send(b"GET /v2 HTTP/1.1\r\nHo")
        await until(lambda: len(run.server.rest._server.server_state.connections) == 3)
        began = time.monotonic()
        await bounded(run.leave(drain_seconds=10))

        assert time.monotonic() - began < 2.0
        assert await silent.rest() == b""


async def test_after_the_end_nothing_is_taken() -> None:
    """New connections are refused on all three ports, and the model is unloaded."""
    async with running() as run:
        await bounded(run.leave())
        async with httpx.AsyncClient() as fresh:
            for url in (f"{run.rest}/v2/health/live", f"{run.metrics}/metrics"):
                with pytest.raises(httpx.ConnectError):
                    await fresh.get(url)
        assert run.toy.gate.stopped


@pytest.mark.parametrize("lame_duck", [0.0, 0.1, 0.2])
async def test_an_end_in_the_middle_of_traffic_truncates_nothing(lame_duck: float) -> None:
    """Clients that ask on and on: each request is whole, or has no byte of an answer. Over gRPC that is a refusal, or the library's own CANCELLED for
    a call that arrives before its client has been told to go (docs/decisions/0018-grpc-connections-end-by-age.md)."""
    words = "a b c d e f g h"
    whole = "".join(f"{word} " for word in words.split())
    async with running() as run:
        answers: list[str] = []
        broken: list[str] = []

        async def rest(path: str, read: Callable[[bytes], str]) -> None:
            while True:
                began = False
                try:
                    client = httpx.AsyncClient(base_url=run.rest, timeout=PATIENCE)
                    async with client, client.stream("POST", path, json={"text_input": words}) as reply:
                        began = True
                        answers.append(read(await reply.aread()))
                except httpx.TransportError as error:
                    broken.extend([repr(error)] if began or isinstance(error, httpx.TimeoutException) else [])
                    return

        async def grpc() -> None:
            while True:
                got: list[bytes] = []
                try:
                    async for message in run.channel.stream_stream(STREAM)(_one(asked(words).SerializeToString())):
                        got.append(message)  # noqa: PERF401  # what came before an error counts
                except aio.AioRpcError as error:
                    unheard = refused(error) or error.code() is grpc.StatusCode.CANCELLED
                    broken.extend([repr(error)] if got or not unheard else [])
                    return
                answers.append("".join(triton(message)[1].outputs[0].contents.bytes_contents[0].decode() for message in got))

        def joined(body: bytes) -> str:
            return "".join(event["text_output"] for event in events(body.decode()))

        def unary(body: bytes) -> str:
            return orjson.loads(body)["text_output"] + " "

        kinds = [rest("/v2/models/toy/generate", unary), rest("/v2/models/toy/generate_stream", joined), grpc()]
        clients = [asyncio.create_task(kind) for kind in kinds]
        await until(lambda: len(answers) > 20)
        leaving = run.leave(lame_duck=lame_duck)
        await bounded(asyncio.gather(*clients))
        await bounded(leaving)

        assert (set(answers), broken) == ({whole}, [])
