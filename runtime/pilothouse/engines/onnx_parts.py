"""The few parts of an ONNX file that an engine edits, declared on the protobuf itself: the onnx package is 50 MB that nothing else at serve time
needs. Fields that are not declared pass through untouched.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

FLOAT, INT32, INT64 = 1, 6, 7  # ONNX's numbers for them
INT = 2  # and for an attribute that is a number
ATTENTION = "GroupQueryAttention"

_STRING, _INT64, _INT32 = FieldDescriptorProto.TYPE_STRING, FieldDescriptorProto.TYPE_INT64, FieldDescriptorProto.TYPE_INT32
_ONE, _MANY = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
# Numbers and names of ONNX's onnx.proto: message -> (field, number, one or many, type).
_MESSAGES: dict[str, list[tuple[str, int, Any, Any]]] = {
    "Model": [("graph", 7, _ONE, "Graph")],
    "Graph": [
        ("node", 1, _MANY, "Node"),
        ("input", 11, _MANY, "Value"),
        ("output", 12, _MANY, "Value"),
        ("value_info", 13, _MANY, "Value"),
    ],
    "Node": [
        ("input", 1, _MANY, _STRING),
        ("output", 2, _MANY, _STRING),
        ("name", 3, _ONE, _STRING),
        ("op_type", 4, _ONE, _STRING),
        ("attribute", 5, _MANY, "Attribute"),
    ],
    "Attribute": [
        ("name", 1, _ONE, _STRING),
        ("i", 3, _ONE, _INT64),
        ("t", 5, _ONE, "Tensor"),
        ("g", 6, _ONE, "Graph"),
        ("type", 20, _ONE, _INT32),
    ],
    "Tensor": [("dims", 1, _MANY, _INT64)],
    "Value": [("name", 1, _ONE, _STRING), ("type", 2, _ONE, "Type")],
    "Type": [("tensor_type", 1, _ONE, "TensorType")],
    "TensorType": [("elem_type", 1, _ONE, _INT32), ("shape", 2, _ONE, "Shape")],
    "Shape": [("dim", 1, _MANY, "Dim")],
    "Dim": [("dim_value", 1, _ONE, _INT64), ("dim_param", 2, _ONE, _STRING)],
}


def read(path: Path) -> Any:
    """The model in a file. Raises `ValueError` where it is none."""
    model = new("Model")
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path.name} is not an ONNX file") from None
    return model


def new(name: str) -> Any:
    """An empty message of those above."""
    return GetMessageClass(_pool().FindMessageTypeByName(f"pilothouse.onnx.{name}"))()


@cache
def _pool() -> DescriptorPool:
    file = FileDescriptorProto(name="pilothouse/onnx_parts.proto", package="pilothouse.onnx", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, label, kind in fields:
            declared = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                declared.type, declared.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".pilothouse.onnx.{kind}"
            else:
                declared.type = kind
    pool = DescriptorPool()
    pool.Add(file)
    return pool


def number(node: Any, name: str) -> int:
    """An attribute of a node, 0 where it has none of that name."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def node(kind: str, inputs: Sequence[str], output: str, axis: int | None = None) -> Any:
    """A node of ONNX's own."""
    made = new("Node")
    made.op_type, made.name = kind, f"{output}/{kind}"
    made.input.extend(inputs)
    made.output.append(output)
    if axis is not None:
        made.attribute.add(name="axis", i=axis, type=INT)
    return made


def declare(values: Any, name: str, kind: int, dims: int) -> None:
    """Add a tensor of `dims` dimensions of any size to a graph's inputs or outputs."""
    tensor = values.add(name=name).type.tensor_type
    tensor.elem_type = kind
    tensor.shape.SetInParent()
    for _ in range(dims):
        tensor.shape.dim.add()
