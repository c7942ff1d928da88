"""V2 over gRPC, as a client sees it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from mlserver.grpc import dataplane_pb2 as pb

from pilothouse import errors
from pilothouse.server import grpc_server
from pilothouse.server.grpc_account import Account
from server.running import PATIENCE, Running, bounded, running
from server.toy import FAILURES

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
MLSERVER = (("pilothouse-stream", "mlserver"),)


def asked(*texts: str, model: str = "toy", raw: bool = False, **more: Any) -> Any:
    """A ModelInferRequest of these prompts."""
    values = [text.encode() for text in texts]
    tensor = {"name": "prompt", "datatype": "BYTES", "shape": [len(values)]}
    if raw:
        packed = b"".join(len(v).to_bytes(4, "little") + v for v in values)
        return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[packed], **more)
    return pb.ModelInferRequest(model_name=model, inputs=[{**tensor, "contents": {"bytes_contents": values}}], **more)


async def status_of(call: Any) -> tuple[str, str]:
    """A failed call's status and text."""
    with pytest.raises(aio.AioRpcError) as failed:
        await bounded(call)
    return failed.value.code().name, failed.value.details()


async def streamed(run: Running, *requests: Any, metadata: tuple[tuple[str, str], ...] = ()) -> list[bytes]:
    """The stream's raw messages for these requests."""
    call = run.channel.stream_stream(STREAM)(_each(requests), metadata=metadata)
    return [message async for message in call]


async def _each(requests: tuple[Any, ...]) -> AsyncIterator[bytes]:
    for request in requests:
        yield request.SerializeToString()


def triton(message: bytes) -> tuple[str, Any]:
    """Triton's ModelStreamInferResponse, read by its field numbers: error_message = 1, infer_response = 2."""
    error, response, at = "", None, 0
    while at < len(message):
        field, size, at, shift = message[at] >> 3, 0, at + 1, 0
        while True:
            byte, at = message[at], at + 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        part, at = message[at : at + size], at + size
        if field == 1:
            error = part.decode()
        else:
            response = pb.ModelInferResponse.FromString(part)
    return error, response


async def test_the_standard_calls_answer() -> None:
    """Live, ready, model ready, both metadata and infer, with the names and tensors that REST tells."""
    async with running() as run:
        assert (await run.stub.ServerLive(pb.ServerLiveRequest())).live
        assert (await run.stub.ServerReady(pb.ServerReadyRequest())).ready
        assert (await run.stub.ModelReady(pb.ModelReadyRequest(name="toy", version="3"))).ready
        assert (await run.stub.ServerMetadata(pb.ServerMetadataRequest())).name == "pilothouse"
        metadata = await run.stub.ModelMetadata(pb.ModelMetadataRequest(name="toy"))
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("prompt", "BYTES", [-1])]

        answer = await run.stub.ModelInfer(asked("hello you", "and me", id="a"))

        assert (answer.model_name, answer.model_version, answer.id) == ("toy", "3", "a")
        assert list(answer.outputs[0].contents.bytes_contents) == [b"hello you", b"and me"]
        assert answer.outputs[0].parameters["finish_reason"].string_param == "stop"


async def test_raw_contents_are_answered_raw() -> None:
    """raw_input_contents in, raw_output_contents out."""
    async with running() as run:
        answer = await run.stub.ModelInfer(asked("hi", "you", raw=True))

        assert list(answer.raw_output_contents) == [b"\x02\x00\x00\x00hi\x03\x00\x00\x00you"]
        assert list(answer.outputs[0].shape) == [2]


async def test_parameters_keep_their_types() -> None:
    """Booleans, integers and strings arrive as such, and so do the doubles that only Triton's schema has."""
    async with running() as run:
        request = asked("hi")
        request.parameters["seed"].int64_param = 7
        request.parameters["ignore_eos"].bool_param = False
        request.parameters["user"].string_param = "me"
        request.parameters["temperature"].MergeFromString(b"\x21\x9a\x99\x99\x99\x99\x99\xc9\x3f")  # double_param = 4: 0.2
        await run.stub.ModelInfer(request)

        assert run.toy.seen[-1][2].parameters.model_extra == {"seed": 7, "ignore_eos": False, "user": "me", "temperature": 0.2}


@pytest.mark.parametrize("name", FAILURES)
async def test_a_models_error_has_the_status_of_the_table(name: str) -> None:
    """Every class of error gets its own code, with retry-after in the trailers where a retry helps; foreign text stays inside."""
    async with running() as run:
        with pytest.raises(aio.AioRpcError) as failed:
            await run.stub.ModelInfer(asked(f"fail {name}"))

        error, trailers = FAILURES[name], dict(failed.value.trailing_metadata())
        assert failed.value.code().name == errors.wire(error).grpc
        assert failed.value.details() == ("internal error; the reason is in the server's log" if name == "foreign" else str(error))
        assert ("retry-after" in trailers) == isinstance(error, errors.Retryable)


async def test_wrong_requests_are_named() -> None:
    """An unknown model is NOT_FOUND on every call that names one; broken messages and tensors are INVALID_ARGUMENT."""
    async with running() as run:
        unknown = ("NOT_FOUND", "model 'ghost' is not served here; served: toy")
        assert await status_of(run.stub.ModelInfer(asked("hi", model="ghost"))) == unknown
        assert await status_of(run.stub.ModelReady(pb.ModelReadyRequest(name="ghost"))) == unknown
        assert await status_of(run.stub.ModelMetadata(pb.ModelMetadataRequest(name="ghost"))) == unknown
        infer = run.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert await status_of(infer(b"\xff")) == ("INVALID_ARGUMENT", "this is not a inference.ModelInferRequest message")
        short = asked("hi", raw=True)
        short.raw_input_contents[0] = b"\xff\xff\xff\xff"
        assert (await status_of(run.stub.ModelInfer(short)))[0] == "INVALID_ARGUMENT"
        many = asked("hi", raw=True)
        many.raw_input_contents.append(b"")
        assert (await status_of(run.stub.ModelInfer(many)))[0] == "INVALID_ARGUMENT"
        wrong = asked("hi")
        wrong.inputs[0].datatype = "TEXT"
        assert await status_of(run.stub.ModelInfer(wrong)) == ("INVALID_ARGUMENT", "inputs[0].datatype: there is no 'TEXT'")
        assert (await status_of(run.channel.unary_unary("/inference.GRPCInferenceService/Ghost")(b"")))[0] == "UNIMPLEMENTED"


async def test_a_message_over_the_limit_is_refused() -> None:
    """One message is bounded by its setting."""
    async with running(grpc_message_bytes=1024) as run:
        assert (await status_of(run.stub.ModelInfer(asked("x" * 2000))))[0] == "RESOURCE_EXHAUSTED"


async def test_the_repository_is_closed() -> None:
    """Index, load and unload are denied without the admin setting; MLServer's second service is not there at all."""
    async with running() as run:
        closed = ("PERMISSION_DENIED", "the model repository is closed; setting repository_api opens it")
        assert await status_of(run.stub.RepositoryIndex(pb.RepositoryIndexRequest())) == closed
        assert await status_of(run.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="toy"))) == closed
        assert await status_of(run.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="toy"))) == closed
        other = run.channel.unary_unary("/inference.model_repository.ModelRepositoryService/RepositoryIndex")
        assert (await status_of(other(b"")))[0] == "UNIMPLEMENTED"
        assert (await run.stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_a_stream_answers_tritons_message() -> None:
    """By default each delta is a ModelStreamInferResponse, and one stream takes several requests."""
    async with running() as run:
        messages = [triton(m) for m in await streamed(run, asked("hello you", id="a"), asked("bye", id="b"))]

        assert [error for error, _ in messages] == ["", "", ""]
        told = [(r.id, r.outputs[0].contents.bytes_contents[0], "triton_final_response" in r.parameters) for _, r in messages]
        assert told == [("a", b"hello ", False), ("a", b"you ", False), ("b", b"bye ", False)]


async def test_a_stream_ends_each_answer_with_an_empty_response_when_asked() -> None:
    """triton_enable_empty_final_response: every delta says that more comes, an empty response that nothing does."""
    async with running() as run:
        request = asked("hello you", id="a")
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        messages = [triton(m)[1] for m in await streamed(run, request)]

        assert [m.parameters["triton_final_response"].bool_param for m in messages] == [False, False, True]
        assert (len(messages[-1].outputs), messages[-1].id) == (0, "a")
        assert run.toy.seen[-1][2].parameters is None


async def test_a_streams_error_is_a_message_and_the_stream_goes_on() -> None:
    """In Triton's form one request's failure does not end the others."""
    async with running() as run:
        requests = asked("late foreign", id="a"), asked("hi", model="ghost", id="b"), asked("fine", id="c")
        messages = [triton(m) for m in await streamed(run, *requests)]

        told = [(error, response.id) for error, response in messages]
        assert told == [
            ("", "a"),
            ("internal error; the reason is in the server's log", "a"),
            ("model 'ghost' is not served here; served: toy", "b"),
            ("", "c"),
        ]


async def test_a_streams_error_is_a_status_when_asked() -> None:
    """triton_grpc_error and MLServer's form end the stream with the table's code."""
    async with running() as run:
        for metadata in ((("triton_grpc_error", "true"),), MLSERVER):
            with pytest.raises(aio.AioRpcError) as failed:
                await streamed(run, asked("hi", model="ghost"), metadata=metadata)

            assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_speaks_mlservers_message_when_asked() -> None:
    """With the documented metadata a caller of MLServer's stub reads ModelInferResponse."""
    async with running() as run:

        async def requests() -> AsyncIterator[Any]:
            yield asked("hello you")

        answers = [answer async for answer in run.stub.ModelStreamInfer(requests(), metadata=MLSERVER)]

        assert [answer.outputs[0].contents.bytes_contents[0] for answer in answers] == [b"hello ", b"you "]


async def test_an_empty_stream_ends_well() -> None:
    """A client that sends nothing gets nothing, and OK."""
    async with running() as run:
        assert await streamed(run) == []


async def test_health_follows_readiness() -> None:
    """grpc.health.v1 says SERVING when /v2/health/ready says 200, for the server and its service; others are unknown."""
    async with running(loaded=False) as run:
        health = health_pb2_grpc.HealthStub(run.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        seen = [(await bounded(watch.read())).status]
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await run.load()
        seen.append((await bounded(watch.read())).status)
        of = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        assert (await health.Check(of)).status == health_pb2.HealthCheckResponse.SERVING
        leaving = run.leave()
        seen.append((await bounded(watch.read())).status)
        assert await bounded(watch.read()) is aio.EOF
        await bounded(leaving)

        serving = health_pb2.HealthCheckResponse
        assert seen == [serving.NOT_SERVING, serving.SERVING, serving.NOT_SERVING]


async def test_an_unknown_services_health_is_unknown() -> None:
    """Check is NOT_FOUND; Watch says SERVICE_UNKNOWN and stays, as the protocol wants."""
    async with running() as run:
        health = health_pb2_grpc.HealthStub(run.channel)
        assert (await status_of(health.Check(health_pb2.HealthCheckRequest(service="ghost"))))[0] == "NOT_FOUND"
        watch = health.Watch(health_pb2.HealthCheckRequest(service="ghost"))
        assert (await bounded(watch.read())).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_reflection_tells_the_stream_as_it_is() -> None:
    """Reflection lists the services, and its schema has Triton's stream message."""
    async with running() as run:
        stub = reflection_pb2_grpc.ServerReflectionStub(run.channel)
        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelStreamInferResponse"),
        ]
        services, schema = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]

        names = [service.name for service in services.list_services_response.service]
        assert names == ["grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection", "inference.GRPCInferenceService"]
        assert len(schema.file_descriptor_response.file_descriptor_proto) == 1


async def test_an_old_connection_is_left_without_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel goes to a new connection again and again, so that none is left on a server that is taken out; every call is answered, and a stream
    that is longer than a connection's life stays whole."""
    monkeypatch.setattr(grpc_server, "AGE_SECONDS", 0.2)
    peers = set()
    async with running(lame_duck_seconds=1) as run:
        account = Account.__aenter__

        async def entered(self: Account) -> None:
            peers.add(self._context.peer())
            await account(self)

        monkeypatch.setattr(Account, "__aenter__", entered)
        call = run.channel.stream_stream(STREAM)(metadata=MLSERVER)
        await call.write(asked("first").SerializeToString())
        assert await bounded(call.read())
        async with asyncio.timeout(PATIENCE):
            while len(peers) < 4:
                await run.stub.ModelInfer(asked("hello"))
        await call.write(asked("last").SerializeToString())
        await call.done_writing()
        rest = []
        while (message := await bounded(call.read())) is not aio.EOF:
            rest.append(message)
        code = await call.code()

    assert (b"last" in b"".join(rest), code) == (True, grpc.StatusCode.OK)
