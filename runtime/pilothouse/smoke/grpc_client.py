"""A gRPC client of the server's own: it learns the messages from the server's reflection, so it imports neither MLServer nor Triton."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pilothouse.smoke.answers import Question, Told, demand, v2_stream_told, v2_told
from pilothouse.smoke.client import Trust

SERVICE = "inference.GRPCInferenceService"


class Calls:
    """The calls of one channel, each answer judged and brought to the shape of the others."""

    def __init__(self, channel: grpc.Channel, key: str | None, timeout: float) -> None:
        self._channel = channel
        self._metadata = [("authorization", f"Bearer {key}")] if key else []
        self._timeout = timeout
        intercepted = grpc.intercept_channel(channel, _WithMetadata(self._metadata))
        self._pool = DescriptorPool(ProtoReflectionDescriptorDatabase(intercepted))
        self._service = self._pool.FindServiceByName(SERVICE)
        self._classes = _classes(self._service)

    def call(self, method: str, request: dict[str, Any], *, key: bool = True) -> Any:
        """One of the service's calls, its request as a dictionary. Raises `grpc.RpcError`."""
        described = self._service.FindMethodByName(method)
        asked = self._classes[described.input_type.full_name](**request)
        call = self._channel.unary_unary(f"/{SERVICE}/{method}", request_serializer=bytes, response_deserializer=bytes)
        answer = call(asked.SerializeToString(), metadata=self._metadata if key else [], timeout=self._timeout)
        return self._classes[described.output_type.full_name].FromString(answer)

    def stream_call(self, *requests: dict[str, Any], metadata: Sequence[tuple[str, str]] = ()) -> list[Any]:
        """Every message of ModelStreamInfer's answer to `requests`. Raises `grpc.RpcError`."""
        described = self._service.FindMethodByName("ModelStreamInfer")
        kind, asked = (self._classes[one.full_name] for one in (described.output_type, described.input_type))
        call = self._channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", request_serializer=bytes, response_deserializer=bytes)
        sent = iter([asked(**request).SerializeToString() for request in requests])
        return [kind.FromString(data) for data in call(sent, metadata=[*self._metadata, *metadata], timeout=self._timeout)]

    def request(self, model: str, question: Question) -> dict[str, Any]:
        """The question as a ModelInferRequest."""
        name, datum = question.tensor
        parameters = {option: _parameter(value) for option, value in question.sampling.items()}
        tensor = {"name": name, "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [datum.encode()]}}
        return {"model_name": model, "id": "smoke-1", "inputs": [tensor], "parameters": parameters}

    def demand_health(self, model: str) -> None:
        """Live, ready and serving without a key; the model's metadata with its tensors."""
        demand(self.call("ServerLive", {}, key=False).live, "gRPC: not live")
        demand(self.call("ServerReady", {}, key=False).ready, "gRPC: not ready")
        status = health_pb2_grpc.HealthStub(self._channel).Check(health_pb2.HealthCheckRequest(), timeout=self._timeout).status
        demand(status == health_pb2.HealthCheckResponse.SERVING, f"gRPC health is {status}")
        metadata = self.call("ModelMetadata", {"name": model})
        demand([t.name for t in metadata.outputs] == ["output"], f"gRPC metadata: outputs are {metadata.outputs}")

    def infer(self, model: str, question: Question) -> Told:
        answer = self.call("ModelInfer", self.request(model, question))
        demand(answer.id == "smoke-1", f"gRPC: the request's id came back as {answer.id!r}")
        return v2_told(plain(answer.parameters), _texts(answer))

    def stream(self, model: str, question: Question) -> Told:
        answers = self.stream_call(self.request(model, question))
        demand(not any(answer.error_message for answer in answers), f"gRPC stream: {answers[-1].error_message if answers else ''}")
        return v2_stream_told([(plain(a.infer_response.parameters), "".join(_texts(a.infer_response))) for a in answers])

    def demand_errors(self, model: str) -> None:
        """Wrong requests have the status of their kind."""
        for expected, request in (
            (grpc.StatusCode.NOT_FOUND, {"model_name": "no-such-model"}),
            (grpc.StatusCode.INVALID_ARGUMENT, {"model_name": model}),
        ):
            try:
                self.call("ModelInfer", request)
            except grpc.RpcError as error:
                demand(error.code() == expected, f"gRPC: {request} got {error.code()}, not {expected}")
            else:
                demand(False, f"gRPC: {request} was answered")


def _classes(service: Any) -> dict[str, Any]:
    """The class of every message that a service's calls have in them, by full name.

    protobuf itself keeps them weakly: made anew for each call, one may be collected while another thread is looking it up.
    """
    found: dict[str, Any] = {}
    todo = [one for method in service.methods for one in (method.input_type, method.output_type)]
    while todo:
        message = todo.pop()
        if message.full_name not in found:
            found[message.full_name] = GetMessageClass(message)
            todo += [field.message_type for field in message.fields if field.message_type is not None]
    return found


class _WithMetadata(grpc.StreamStreamClientInterceptor):  # type: ignore[misc]  # grpc has no types
    """Adds the key to reflection's own stream."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = metadata

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or []), *self._metadata]), requests)


@contextmanager
def connect(address: str, key: str | None = None, *, timeout: float = 60.0, trust: Trust | None = None) -> Iterator[Calls]:
    """Calls to the server at `address` (host:port); `timeout` in seconds for each. Over TLS where `trust` is given."""
    with grpc.insecure_channel(address) if trust is None else grpc.secure_channel(address, _credentials(trust)) as channel:
        yield Calls(channel, key, timeout)


def _credentials(trust: Trust) -> grpc.ChannelCredentials:
    def text(file: Path | None) -> bytes | None:
        return file.read_bytes() if file is not None else None

    return grpc.ssl_channel_credentials(text(trust.ca), text(trust.certificate_key or trust.certificate), text(trust.certificate))


def plain(parameters: Any) -> dict[str, Any]:
    """A message's parameters as values."""
    return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}


def _parameter(value: Any) -> dict[str, Any]:
    """The protocol has no fractions, lists, objects or numbers beyond 64 bits: they go as JSON in a string."""
    if isinstance(value, bool):
        return {"bool_param": value}
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return {"int64_param": value}
    return {"string_param": value if isinstance(value, str) else json.dumps(value)}


def _texts(answer: Any) -> list[str]:
    return [datum.decode() for output in answer.outputs for datum in output.contents.bytes_contents]
