"""gRPC's messages to MLServer's types and back, with Triton's stream message, which MLServer does not know.

MLServer's converters check nothing, lose floating-point parameters (Triton's clients send them in a field that MLServer's schema lacks)
and refuse strings in byte tensors.
"""

import struct
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    TensorData,
)

from pilothouse.errors import InvalidRequest
from pilothouse.protocols import v2_binary
from pilothouse.protocols.fields import shown

SERVICE = "inference.GRPCInferenceService"

_CONTENTS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_DATATYPES = frozenset(datatype.value for datatype in Datatype)

# InferParameter's fields that Triton has and MLServer's schema has not.
_DOUBLE, _UINT64 = 4, 5


def datatype_name(datatype: Any) -> str:
    """A datatype's name: MLServer's types hold it as the enum or as its text."""
    return str(getattr(datatype, "value", datatype))


def parse(kind: Any, data: bytes) -> Any:
    """The message in `data`. Raises `InvalidRequest`."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"this is not a {kind.DESCRIPTOR.full_name} message") from None


def request_from(message: Any) -> InferenceRequest:
    """A `ModelInferRequest` as MLServer's type. Raises `InvalidRequest` that names the tensor."""
    contents = list(message.raw_input_contents)
    if contents and len(contents) != len(message.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(contents)} entries for {len(message.inputs)} inputs; send one for each, or none",
            field="raw_input_contents",
        )
    return InferenceRequest(
        id=message.id or None,
        parameters=_parameters(message.parameters),
        inputs=[_input(tensor, contents[i] if contents else None, f"inputs[{i}]") for i, tensor in enumerate(message.inputs)],
        outputs=[RequestOutput(name=o.name, parameters=_parameters(o.parameters)) for o in message.outputs] or None,
    )


def _input(tensor: Any, raw: bytes | None, path: str) -> RequestInput:
    datatype = tensor.datatype
    if datatype not in _DATATYPES:
        raise InvalidRequest(f"{path}.datatype: there is no {shown(datatype)}", field=f"{path}.datatype")
    shape = v2_binary.sizes(list(tensor.shape), f"{path}.shape")
    if raw is None:
        fields = tensor.contents.ListFields()
        data = list(fields[0][1]) if fields else []
    else:
        data = v2_binary.unpack(raw, datatype, shape, path)
    parameters = _parameters(tensor.parameters)
    return RequestInput(name=tensor.name, shape=shape, datatype=datatype, parameters=parameters, data=TensorData(root=data))


def _parameters(found: Mapping[str, Any]) -> Parameters | None:
    return Parameters(**{name: _parameter(value) for name, value in found.items()}) if found else None


def _parameter(value: Any) -> Any:
    if known := value.ListFields():
        return known[0][1]
    for unknown in UnknownFieldSet(value):
        if unknown.field_number == _DOUBLE and isinstance(unknown.data, int):
            return struct.unpack("<d", struct.pack("<Q", unknown.data))[0]
        if unknown.field_number == _UINT64:
            return unknown.data
    return None


def response_to(response: InferenceResponse, *, raw: bool) -> Any:
    """MLServer's type as a `ModelInferResponse`, its tensors raw where the request's were."""
    message = pb.ModelInferResponse(
        model_name=response.model_name,
        model_version=response.model_version or "",
        id=response.id or "",
        parameters=_told(response.parameters),
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=o.name, datatype=datatype_name(o.datatype), shape=o.shape, parameters=_told(o.parameters)
            )
            for o in response.outputs
        ],
    )
    for output, tensor in zip(response.outputs, message.outputs, strict=True):
        datatype, values = datatype_name(output.datatype), list(output.data)
        if raw or datatype not in _CONTENTS:
            message.raw_output_contents.append(v2_binary.pack(values, datatype))
        else:
            getattr(tensor.contents, _CONTENTS[datatype]).extend(v.encode() if isinstance(v, str) else v for v in values)
    return message


def _told(parameters: Parameters | None) -> dict[str, Any]:
    """Parameters that this schema can hold: true or false, integers, strings."""
    told = {}
    for name, value in (parameters.model_dump(exclude_none=True) if parameters is not None else {}).items():
        if isinstance(value, bool):
            told[name] = pb.InferParameter(bool_param=value)
        elif isinstance(value, int):
            told[name] = pb.InferParameter(int64_param=value)
        elif isinstance(value, str):
            told[name] = pb.InferParameter(string_param=value)
    return told


def stream_item(response: Message | None, error: str = "") -> bytes:
    """Triton's `ModelStreamInferResponse`: `error_message` = 1, `infer_response` = 2."""
    parts = b"\x0a" + _sized(error.encode()) if error else b""
    return parts + (b"\x12" + _sized(response.SerializeToString()) if response is not None else b"")


def _sized(data: bytes) -> bytes:
    """`data` after its length as a varint."""
    size, length = bytearray(), len(data)
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    size.append(length)
    return bytes(size) + data


def reflected(*others: Any) -> DescriptorPool:
    """What reflection tells: MLServer's schema, with the stream's answer as it is sent by default, and the files of `others`."""
    schema = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(schema)
    item = schema.message_type.add(name="ModelStreamInferResponse")
    item.field.add(name="error_message", number=1, type=9, label=1, json_name="errorMessage")
    item.field.add(name="infer_response", number=2, type=11, label=1, json_name="inferResponse", type_name=".inference.ModelInferResponse")
    service = next(s for s in schema.service if s.name == SERVICE.rpartition(".")[2])
    next(m for m in service.method if m.name == "ModelStreamInfer").output_type = ".inference.ModelStreamInferResponse"
    pool = DescriptorPool()
    pool.Add(schema)
    for other in others:
        copy = FileDescriptorProto()
        other.DESCRIPTOR.CopyToProto(copy)
        pool.Add(copy)
    return pool
