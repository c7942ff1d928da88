"""The exported ONNX file as the slots engine runs it: its head computes the wanted positions only, and its shape is what slots can hold.

The edit is done on the protobuf itself, with the few fields it touches declared here: the onnx package is 50 MB that nothing else at serve
time needs. Fields that are not declared pass through untouched.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from pilothouse.engines.refusals import GraphRefused

WANTED = "pilothouse.wanted"  # int64 [wanted, 2]: batch row and position
INT64 = 7  # ONNX's number for it

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
    "Attribute": [("name", 1, _ONE, _STRING), ("i", 3, _ONE, _INT64), ("t", 5, _ONE, "Tensor"), ("g", 6, _ONE, "Graph")],
    "Tensor": [("dims", 1, _MANY, _INT64)],
    "Value": [("name", 1, _ONE, _STRING), ("type", 2, _ONE, "Type")],
    "Type": [("tensor_type", 1, _ONE, "TensorType")],
    "TensorType": [("elem_type", 1, _ONE, _INT32), ("shape", 2, _ONE, "Shape")],
    "Shape": [("dim", 1, _MANY, "Dim")],
    "Dim": [("dim_value", 1, _ONE, _INT64), ("dim_param", 2, _ONE, _STRING)],
}
_PRODUCTS = ("MatMul", "MatMulNBits", "Gemm")


@dataclass(frozen=True, slots=True)
class Layer:
    """The names of one attention's KV, in and out."""

    past_key: str
    past_value: str
    present_key: str
    present_value: str


@dataclass(frozen=True, slots=True)
class SlotsGraph:
    """`model` (a serialised ONNX model) takes `WANTED` too, and answers logits [wanted, vocabulary]."""

    model: bytes
    layers: tuple[Layer, ...]
    kv_heads: int
    head_size: int
    vocabulary: int
    positions: bool  # position_ids is an input
    original: int | None  # tokens until which a long-rope model uses its short tables; None: one table


def read(folder: Path, file: str = "model.onnx") -> SlotsGraph:
    """Read the exported model in `folder`. Raises `GraphRefused` with what slots can't hold."""
    model = _message("Model")
    try:
        model.ParseFromString((folder / file).read_bytes())
    except DecodeError:
        raise _refused(f"{file} is not an ONNX file") from None
    graph = model.graph
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    others = sorted({node.op_type for node in graph.node if "Attention" in node.op_type} - {"GroupQueryAttention"})
    if not attentions or others:
        raise _refused(f"its attention is {', '.join(others) or 'not GroupQueryAttention'}, which can't share past and present")
    layers = tuple(_layer(node) for node in attentions)
    names = {value.name for value in graph.input}
    unknown = (
        names - {"input_ids", "attention_mask", "position_ids"} - {name for layer in layers for name in (layer.past_key, layer.past_value)}
    )
    if unknown:
        raise _refused(f"its input {min(unknown)} is not known here")
    heads = {_attribute(node, "kv_num_heads") for node in attentions}
    if len(heads) != 1:
        raise _refused("its layers differ in the number of KV heads")
    vocabulary = _want_positions(graph)
    return SlotsGraph(
        model=model.SerializeToString(),
        layers=layers,
        kv_heads=heads.pop(),
        head_size=_head_size(folder),
        vocabulary=vocabulary,
        positions="position_ids" in names,
        original=_original(graph),
    )


def _refused(reason: str) -> GraphRefused:
    return GraphRefused("slots", reason)


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


def _message(name: str) -> Any:
    return GetMessageClass(_pool().FindMessageTypeByName(f"pilothouse.onnx.{name}"))()


def _attribute(node: Any, name: str) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == name), 0)


def _layer(node: Any) -> Layer:
    inputs, outputs = list(node.input), list(node.output)
    if len(inputs) < 5 or len(outputs) < 3 or not all((*inputs[3:5], *outputs[1:3])):
        raise _refused(f"{node.name} keeps no past that it could share")
    if _attribute(node, "sliding_window_cache"):
        raise _refused(f"{node.name} keeps a window of its past only (windowed_kv_cache)")
    if len(inputs) > 12 and any(inputs[12:14]):
        raise _refused(f"{node.name} keeps quantised keys and values")
    return Layer(inputs[3], inputs[4], outputs[1], outputs[2])


def _want_positions(graph: Any) -> int:
    """Put a gather of the wanted positions before the head; answers the vocabulary's size."""
    producers = {name: node for node in graph.node for name in node.output if name}
    output = next((value for value in graph.output if value.name == "logits"), None)
    if output is None:
        raise _refused("it has no output named logits")
    dims = output.type.tensor_type.shape.dim
    if not dims or not dims[-1].dim_value:
        raise _refused("its vocabulary has no fixed size")
    vocabulary = int(dims[-1].dim_value)
    head = producers["logits"]
    while head.op_type not in _PRODUCTS:
        if not head.input or head.input[0] not in producers:
            raise _refused("its logits don't come from a matrix product")
        head = producers[head.input[0]]
    hidden = head.input[0]
    before = producers.get(hidden)
    if before is not None and before.op_type == "Unsqueeze" and producers[before.input[0]].op_type == "Gather":
        hidden = producers[before.input[0]].input[0]  # exported with prune_lm_head: the last position only, which is not enough here
    place = list(graph.node).index(head)
    head.input[0] = "pilothouse.hidden"
    gather = _message("Node")
    gather.op_type, gather.name = "GatherND", "pilothouse.gather"
    gather.input.extend([hidden, WANTED])
    gather.output.append("pilothouse.hidden")
    graph.node.insert(place, gather)
    wanted = graph.input.add(name=WANTED)
    wanted.type.tensor_type.elem_type = INT64
    output.type.tensor_type.ClearField("shape")
    del graph.value_info[:]  # they speak of [batch, length]
    return vocabulary


def _original(graph: Any) -> int | None:
    """The rows of the shorter of two rotary tables, where the file chooses between two."""
    for node in graph.node:
        if node.op_type == "If":
            branches = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            rows = [inner.t.dims[0] for branch in branches for constant in branch.node for inner in constant.attribute if inner.t.dims]
            if not rows:
                raise _refused(f"{node.name} chooses between parts that are not known here")
            return int(min(rows))
    return None


def _head_size(folder: Path) -> int:
    try:
        return int(json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["head_size"])
    except (OSError, ValueError, KeyError, TypeError):
        raise _refused("genai_config.json with model.decoder.head_size is not beside it") from None
