"""Tensors as raw bytes: V2's binary tensor extension over REST, and `raw_input_contents` over gRPC, which share one coding.

A REST body is a JSON header and, after it, the tensors' bytes in order; `Inference-Header-Content-Length` says where the header ends.
Numbers are little-endian and row-major; an element of BYTES is its length in four bytes, then itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.protocols.fields import Fields, document, shown, wrong_type
from pilothouse.protocols.limits import at_most

HEADER = "Inference-Header-Content-Length"
MEDIA_TYPE = "application/octet-stream"
MAX_DIMENSIONS = 16
LENGTH = 4  # bytes before each element of BYTES

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outputs a client wants as bytes: those named with their own word, all others by `default`."""

    default: bool = False
    outputs: Mapping[str, bool] = field(default_factory=dict)

    def binary(self, name: str) -> bool:
        return self.outputs.get(name, self.default)


def read(raw: bytes, header_length: str | None) -> dict[str, Any]:
    """The request in a REST body, every binary tensor unpacked into its `data` (BYTES as `bytes`), its `binary_data_size` gone.

    `header_length` is the header's value, None where it was not sent: then the body is JSON alone. Raises `InvalidRequest` for a length that
    is no place in the body, sizes that do not add up to the bytes that came, and bytes that do not hold the shape they claim.
    """
    if header_length is None:
        body, rest = document(raw), b""
    else:
        end = _place(header_length, len(raw))
        body, rest = document(raw[:end]), raw[end:]
    inputs: list[Any] = body["inputs"] if isinstance(body.get("inputs"), list) else []
    start = 0
    for index, tensor in enumerate(inputs):
        size = _size(tensor, f"inputs[{index}]")
        if size is None:
            continue
        if header_length is None:
            path = f"inputs[{index}].parameters.binary_data_size"
            raise InvalidRequest(f"{path} needs the header {HEADER}", field=path)
        if size > len(rest) - start:
            path = f"inputs[{index}].parameters.binary_data_size"
            raise InvalidRequest(f"{path} is {size}, but {len(rest) - start} bytes are left in the body", field=path)
        inputs[index] = _filled(tensor, rest[start : start + size], f"inputs[{index}]")
        start += size
    if start != len(rest):
        raise InvalidRequest(f"{len(rest) - start} bytes after the JSON header belong to no input", field="inputs")
    return body


def wanted(body: Mapping[str, Any]) -> Wanted:
    """What a request says of its outputs: `binary_data_output` for all, `binary_data` for each."""
    parameters = Fields(body.get("parameters") or {}, "parameters")
    outputs: dict[str, bool] = {}
    given = body.get("outputs")
    for index, output in enumerate(given if isinstance(given, list) else []):
        one = Fields(output, f"outputs[{index}]")
        binary = (one.object("parameters") or Fields({})).boolean("binary_data")
        if binary is not None:
            outputs[one.need_text("name")] = binary
    return Wanted(parameters.boolean("binary_data_output") or False, outputs)


def write(response: Mapping[str, Any], wanted: Wanted) -> tuple[bytes, int | None]:
    """A response (as JSON values, BYTES as `bytes` or `str`) as a body, and its JSON header's length; None where all of it is JSON."""
    blobs: list[bytes] = []
    outputs = []
    for output in response["outputs"]:
        if not wanted.binary(output["name"]):
            outputs.append(output)
            continue
        blob = pack(output["data"], output["datatype"])
        blobs.append(blob)
        kept = {name: value for name, value in output.items() if name != "data"}
        outputs.append(kept | {"parameters": {**(output.get("parameters") or {}), "binary_data_size": len(blob)}})
    header = orjson.dumps({**response, "outputs": outputs}, default=_text)
    return b"".join((header, *blobs)), len(header) if blobs else None


def pack(data: Sequence[Any], datatype: str) -> bytes:
    """A flat tensor as bytes."""
    if datatype in NUMBERS:
        return np.asarray(data, NUMBERS[datatype]).tobytes()
    parts = []
    for element in data:
        content = element.encode() if isinstance(element, str) else element
        parts += [len(content).to_bytes(LENGTH, "little"), content]
    return b"".join(parts)


def unpack(raw: bytes, datatype: str, shape: Sequence[int], path: str) -> list[Any]:
    """The flat tensor in `raw`. Raises `InvalidRequest` that names `path` unless the bytes hold exactly the elements of `shape`."""
    count = math.prod(shape)
    if datatype == "BYTES":
        found = _elements(raw, path)
        if len(found) != count:
            raise InvalidRequest(f"{path}: shape {list(shape)} is {count} elements, but its bytes hold {len(found)}", field=path)
        return found
    number = NUMBERS.get(datatype)
    if number is None:
        raise Unsupported(f"{path}.datatype {shown(datatype)} is not read as bytes here", field=f"{path}.datatype")
    if len(raw) != count * number.itemsize:
        raise InvalidRequest(
            f"{path}: shape {list(shape)} of {datatype} is {count * number.itemsize} bytes, but {len(raw)} came", field=path
        )
    values: list[Any] = np.frombuffer(raw, number).tolist()
    return values


def _elements(raw: bytes, path: str) -> list[bytes]:
    elements: list[bytes] = []
    start, size = 0, len(raw)
    while start < size:
        begin = start + LENGTH
        end = begin + int.from_bytes(raw[start:begin], "little")
        if begin > size or end > size:
            raise InvalidRequest(f"{path}: element {len(elements)} runs over the end of the tensor's {len(raw)} bytes", field=path)
        elements.append(raw[begin:end])
        start = end
    return elements


def _place(header_length: str, size: int) -> int:
    # int() alone would take "+5", " 5" and "1_000".
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) <= 19):
        raise InvalidRequest(f"{HEADER} must be a whole number of bytes, not {shown(header_length)}", field=HEADER)
    length = int(header_length)
    if length > size:
        raise InvalidRequest(f"{HEADER} is {length}, but the body has {size} bytes", field=HEADER)
    return length


def _size(tensor: Any, path: str) -> int | None:
    """The tensor's `binary_data_size`; None where it is JSON, or no tensor at all, which its reader will refuse."""
    parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
    if not isinstance(parameters, dict):
        return None
    place = Fields(parameters, f"{path}.parameters")
    size = place.integer("binary_data_size")
    if size is not None and size < 0:
        name = place.path("binary_data_size")
        raise InvalidRequest(f"{name} must not be negative, not {shown(size)}", field=name)
    return size


def _filled(tensor: dict[str, Any], raw: bytes, path: str) -> dict[str, Any]:
    fields = Fields(tensor, path)
    if "data" in fields:
        raise InvalidRequest(f"{path} has data and binary_data_size; send one of them", field=f"{path}.data")
    datatype, dimensions = fields.need_text("datatype"), sizes(fields.need_items("shape"), fields.path("shape"))
    parameters = {name: value for name, value in tensor["parameters"].items() if name != "binary_data_size"}
    return tensor | {"parameters": parameters, "data": unpack(raw, datatype, dimensions, path)}


def sizes(values: Sequence[Any], path: str) -> list[int]:
    """A shape: sizes of zero and more."""
    at_most(path, len(values), MAX_DIMENSIONS, "dimensions")
    for index, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool):
            wrong_type(f"{path}[{index}]", "an integer", value)
        if value < 0:
            raise InvalidRequest(f"{path}[{index}] must not be negative, not {shown(value)}", field=f"{path}[{index}]")
    return list(values)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(type(value).__name__)
