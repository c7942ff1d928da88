"""A client that goes away frees what was computed for it, on every protocol."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from grpc import aio

from server.raw import connected
from server.running import running, until
from server.test_grpc import STREAM, asked
from server.test_v2_rest import INFER, tensor

HOLD = orjson.dumps(tensor("hold on"))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INFER, HOLD),
        ("/v2/models/toy/generate", b'{"text_input": "hold on"}'),
        ("/v2/models/toy/infer_stream", HOLD),
        ("/v2/models/toy/generate_stream", b'{"text_input": "hold on"}'),
        ("/v1/echo", b"hold on"),
        ("/v1/stream", b"hold on"),
        ("/invocations", b"hold on"),
    ],
)
async def test_hanging_up_ends_the_handler(path: str, body: bytes) -> None:
    """Unary and streamed alike: the connection's end cancels the work behind it, once, and the next request is answered."""
    async with running() as run:
        async with connected(run) as client:
            await client.post(path, body)
            await until(lambda: run.toy.gate.running == 1)
        await until(lambda: run.toy.gate.running == 0)

        assert run.toy.gate.cancelled == 1
        assert (await run.client.post("/v1/echo", content=b"next")).content == b"next"


async def test_hanging_up_after_a_large_body_ends_the_handler() -> None:
    """A body that comes in one large piece, after its head, stops the reading of the connection: whoever goes then is seen to go."""
    body = b"hold on" + b" " * 200_000
    async with running() as run:
        async with connected(run) as client:
            await client.post("/v1/echo", length=len(body))
            await until(lambda: run.server.rest.busy == 1)
            await client.send(body)
            await until(lambda: run.toy.gate.running == 1)
        await until(lambda: run.toy.gate.running == 0)
        assert run.toy.gate.cancelled == 1


async def test_hanging_up_before_the_body_is_whole_ends_the_handler() -> None:
    """A client that goes away in the middle of its upload leaves nothing behind."""
    async with running() as run:
        async with connected(run) as client:
            await client.post(INFER, b"{", length=100)
            await until(lambda: run.server.rest.busy == 1)
        await until(lambda: run.server.rest.busy == 0)
        assert run.toy.seen == []


async def test_a_finished_answer_is_not_a_hang_up(caplog: pytest.LogCaptureFixture) -> None:
    """The host reports a sent response as a disconnect; the log still says 200."""
    caplog.set_level("INFO", logger="pilothouse.access")
    async with running() as run, connected(run) as client:
        await client.post(INFER, orjson.dumps(tensor("hi")))
        assert (await client.reply()).status == 200
        await until(lambda: len(caplog.records) == 1)

        assert caplog.records[0].fields["status"] == 200


async def test_a_hang_up_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    """Status 499 in the access log, and no error."""
    caplog.set_level("INFO", logger="pilothouse.access")
    async with running() as run:
        async with connected(run) as client:
            await client.post(INFER, HOLD)
            await until(lambda: run.toy.gate.running == 1)
        await until(lambda: bool(caplog.records))

        assert [(record.levelname, record.fields["status"]) for record in caplog.records] == [("INFO", 499)]


async def test_grpc_cancellation_ends_the_handler() -> None:
    """A cancelled call, a passed deadline and a cancelled stream all free their row."""
    async with running() as run:
        call = run.stub.ModelInfer(asked("hold on"))
        await until(lambda: run.toy.gate.running == 1)
        call.cancel()
        await until(lambda: run.toy.gate.cancelled == 1)

        with pytest.raises(aio.AioRpcError) as failed:
            await run.stub.ModelInfer(asked("hold on"), timeout=0.2)
        assert failed.value.code().name == "DEADLINE_EXCEEDED"
        await until(lambda: run.toy.gate.cancelled == 2)

        async def requests() -> AsyncIterator[Any]:
            yield asked("hold on").SerializeToString()
            await asyncio.Event().wait()

        stream = run.channel.stream_stream(STREAM)(requests())
        await stream.read()
        await until(lambda: run.toy.gate.running == 1)
        stream.cancel()
        await until(lambda: run.toy.gate.cancelled == 3)
        assert run.toy.gate.running == 0
