"""The Open Inference Protocol over gRPC: the standard calls, Triton's stream, health, reflection, and the status of every refusal."""

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pilothouse.smoke import grpc_client
from pilothouse.smoke.answers import Question
from pilothouse.smoke.checks import Target
from pilothouse.smoke.grpc_client import SERVICE, Calls, plain

HELLO = Question(prompt="Hello", options={"max_tokens": 4})


@pytest.fixture(scope="module")
def calls(target: Target) -> Iterator[Calls]:
    """The service's calls."""
    if target.grpc is None:
        pytest.skip("no gRPC address was given")
    with grpc_client.connect(target.grpc, target.client.key) as made:
        yield made


@pytest.fixture(scope="module")
def channel(target: Target, calls: Calls) -> Iterator[grpc.Channel]:
    """A bare channel to the same server."""
    with grpc.insecure_channel(target.grpc) as made:
        yield made


def tensor(*data: bytes, **changed: Any) -> dict[str, Any]:
    return {"name": "prompt", "datatype": "BYTES", "shape": [len(data)], "contents": {"bytes_contents": list(data)}} | changed


def test_standard_calls_answer(calls: Calls, target: Target) -> None:
    """Live, ready, model ready, and the same metadata as over REST."""
    told = calls.call("ModelMetadata", {"name": target.model})
    over_rest = target.client.get(f"/v2/models/{target.model}").json

    assert calls.call("ServerLive", {}).live
    assert calls.call("ServerReady", {}).ready
    assert calls.call("ModelReady", {"name": target.model, "version": told.versions[0]}).ready
    assert calls.call("ServerMetadata", {}).name == "pilothouse"
    assert (told.name, list(told.versions), told.platform) == (over_rest["name"], over_rest["versions"], over_rest["platform"])
    for known, tensors in ((over_rest["inputs"], told.inputs), (over_rest["outputs"], told.outputs)):
        assert [(t.name, t.datatype, list(t.shape)) for t in tensors] == [(t["name"], t["datatype"], t["shape"]) for t in known]


def test_the_clients_messages_keep_their_classes(calls: Calls, target: Target) -> None:
    """One class for each message from the first call to the last: threads that call at once never meet one that is being collected."""
    answer = calls.call("ModelInfer", calls.request(target.model, HELLO))
    kinds = [weakref.ref(type(one)) for one in (answer, answer.outputs[0], answer.outputs[0].contents, answer.parameters["finish_reason"])]
    del answer
    gc.collect()
    again = calls.call("ModelInfer", calls.request(target.model, HELLO))

    assert [kind() for kind in kinds] == [
        type(one) for one in (again, again.outputs[0], again.outputs[0].contents, again.parameters["finish_reason"])
    ]


def test_raw_contents_are_answered_raw(calls: Calls, target: Target) -> None:
    """As Triton's client sends tensors: bytes beside the message, with the length before each string."""
    plainly = calls.call("ModelInfer", calls.request(target.model, HELLO))
    text = plainly.outputs[0].contents.bytes_contents[0]
    raw = {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1]}], "raw_input_contents": [b"\x05\x00\x00\x00Hello"]}

    told = calls.call("ModelInfer", calls.request(target.model, HELLO) | raw)

    assert list(told.raw_output_contents) == [len(text).to_bytes(4, "little") + text]
    assert list(told.outputs[0].contents.bytes_contents) == []


def test_rows_are_answered_in_order(calls: Calls, target: Target) -> None:
    """One output row for each prompt."""
    asked = calls.request(target.model, HELLO) | {"inputs": [tensor(b"Hello", b"Hello", b"Hello")]}

    told = calls.call("ModelInfer", asked)

    assert list(told.outputs[0].shape) == [3]
    assert len(set(told.outputs[0].contents.bytes_contents)) == 1
    assert plain(told.parameters)["finish_reason"].count(",") == 2


@pytest.mark.parametrize(
    ("changed", "status", "named"),
    [
        ({"model_name": "gpt-9"}, "NOT_FOUND", "gpt-9"),
        ({"model_name": ""}, "NOT_FOUND", "not served"),
        ({"model_version": "77"}, "NOT_FOUND", "77"),
        ({"inputs": []}, "INVALID_ARGUMENT", "inputs"),
        ({"inputs": [tensor(b"a"), tensor(b"a")]}, "INVALID_ARGUMENT", "prompt"),
        ({"inputs": [tensor(b"a", name="text")]}, "INVALID_ARGUMENT", "text"),
        ({"inputs": [tensor(b"a", datatype="FP32")]}, "INVALID_ARGUMENT", "datatype"),
        ({"inputs": [tensor(b"a", datatype="")]}, "INVALID_ARGUMENT", "datatype"),
        ({"inputs": [tensor(b"a", shape=[2])]}, "INVALID_ARGUMENT", "shape"),
        ({"inputs": [tensor(b"a", shape=[-1])]}, "INVALID_ARGUMENT", "shape"),
        ({"inputs": [tensor(b"\xff")]}, "INVALID_ARGUMENT", "UTF-8"),
        ({"inputs": [tensor(*[b"a"] * 65)]}, "INVALID_ARGUMENT", "rows"),
        ({"raw_input_contents": [b"", b""]}, "INVALID_ARGUMENT", "raw_input_contents"),
        ({"inputs": [tensor()], "raw_input_contents": [b"\x09\x00\x00\x00Hello"]}, "INVALID_ARGUMENT", "inputs[0]"),
        ({"outputs": [{"name": "logits"}]}, "INVALID_ARGUMENT", "logits"),
        ({"parameters": {"temperature": {"int64_param": 9}}}, "INVALID_ARGUMENT", "temperature"),
        ({"parameters": {"temperature": {"string_param": "hot"}}}, "INVALID_ARGUMENT", "temperature"),
        ({"parameters": {"colour": {"string_param": "red"}}}, "INVALID_ARGUMENT", "colour"),
        ({"parameters": {"temperature": {}}}, "INVALID_ARGUMENT", "temperature"),
    ],
)
def test_wrong_request_has_a_status_and_names_what_is_wrong(
    calls: Calls, target: Target, changed: dict[str, Any], status: str, named: str
) -> None:
    """Over the unary call as its status; over the stream as a message, after which the stream goes on."""
    right = calls.request(target.model, HELLO)
    wrong = right | changed

    with pytest.raises(grpc.RpcError) as raised:
        calls.call("ModelInfer", wrong)
    streamed = calls.stream_call(wrong, right)

    assert (raised.value.code().name, named in raised.value.details()) == (status, True)
    assert streamed[0].error_message == raised.value.details()
    assert streamed[0].infer_response.id == right["id"]
    assert plain(streamed[-1].infer_response.parameters)["finish_reason"] in ("stop", "length")


def test_stream_error_is_a_status_for_those_who_ask(calls: Calls, target: Target) -> None:
    """Triton's metadata `triton_grpc_error: true` ends the stream with the status."""
    with pytest.raises(grpc.RpcError) as raised:
        calls.stream_call(calls.request("gpt-9", HELLO), metadata=[("triton_grpc_error", "true")])

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_several_requests_of_one_stream_are_answered_in_turn(calls: Calls, target: Target) -> None:
    """Each message says which request it is of, and each answer ends once."""
    requests = [calls.request(target.model, HELLO) | {"id": str(number)} for number in range(3)]

    told = [answer.infer_response for answer in calls.stream_call(*requests)]

    ends = [answer.id for answer in told if "finish_reason" in answer.parameters]
    assert ends == ["0", "1", "2"]
    assert [answer.id for answer in told] == sorted(answer.id for answer in told)


def test_final_response_is_sent_to_those_who_ask(calls: Calls, target: Target) -> None:
    """`triton_enable_empty_final_response`: every response says whether it is the final one, which is empty."""
    asked = calls.request(target.model, HELLO)
    asked["parameters"] |= {"triton_enable_empty_final_response": {"bool_param": True}}

    told = [answer.infer_response for answer in calls.stream_call(asked)]

    finals = [plain(answer.parameters)["triton_final_response"] for answer in told]
    assert finals == [False] * (len(told) - 1) + [True]
    assert list(told[-1].outputs) == []


@pytest.mark.parametrize("method", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
def test_repository_is_closed(calls: Calls, target: Target, method: str) -> None:
    """No client loads or unloads a model, or lists them."""
    request = {} if method == "RepositoryIndex" else {"model_name": target.model}

    with pytest.raises(grpc.RpcError) as raised:
        calls.call(method, request)

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_health_is_the_standard_service(channel: grpc.Channel) -> None:
    """The server's and the service's health are SERVING; another service's is NOT_FOUND."""
    stub = health_pb2_grpc.HealthStub(channel)

    for service in ("", SERVICE):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="no-such-service"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    """A client without any file finds the protocol, health and reflection itself."""
    database = ProtoReflectionDescriptorDatabase(channel)

    assert set(database.get_services()) == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert service.FindMethodByName("ModelStreamInfer").output_type.full_name == "inference.ModelStreamInferResponse"


def test_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    """As gRPC itself answers it."""
    call = channel.unary_unary(f"/{SERVICE}/ModelExplain", request_serializer=bytes, response_deserializer=bytes)

    with pytest.raises(grpc.RpcError) as raised:
        call(b"")

    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_message_that_is_none_is_invalid(channel: grpc.Channel) -> None:
    """Bytes that are no message are the caller's mistake, not an internal error."""
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer", request_serializer=bytes, response_deserializer=bytes)

    with pytest.raises(grpc.RpcError) as raised:
        call(b"\xff\xff\xff")

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
