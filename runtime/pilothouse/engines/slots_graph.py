"""The exported ONNX file as the slots engine runs it: one flat run of tokens, of which the first are one each of several rows and the others a
piece of one row. Everything but attention treats tokens alike; each attention is made two, one for either part. The head computes the wanted
positions only.

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

WANTED = "pilothouse.wanted"  # int64 [wanted, 2]: 0 and a position in the flat run
KEPT = "pilothouse.kept"  # int64 [1, tokens, 1]: which of what both attentions answer, the rows' first, make the flat run again
INT32, INT64 = 6, 7  # ONNX's numbers for them
INT = 2  # and for an attribute that is a number
ATTENTION = "GroupQueryAttention"
PAST, LAST, LONGEST = slice(3, 5), 5, 6  # the attention's inputs, after three of queries, keys and values

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
_PRODUCTS = ("MatMul", "MatMulNBits", "Gemm")


@dataclass(frozen=True, slots=True)
class Part:
    """The names of what one of the two attentions takes in every layer, and of its keys and values, in and out: key, value of each layer."""

    name: str
    past: list[str]
    present: list[str]

    @property
    def at(self) -> str:
        """int64 [rows, tokens, 2]: of each of its tokens 0 and the position in the flat run."""
        return f"pilothouse.{self.name}.at"

    @property
    def last(self) -> str:
        """int32 [its rows]: the tokens that a row has after the run, less one."""
        return f"pilothouse.{self.name}.last"

    @property
    def longest(self) -> str:
        """int32 []: the most tokens that one of its rows has after the run."""
        return f"pilothouse.{self.name}.longest"


@dataclass(frozen=True, slots=True)
class SlotsGraph:
    """`model` (a serialised ONNX model) takes input_ids [1, tokens] and what is named here, and answers logits [wanted, vocabulary].

    `rows` have one token each, `piece` is of one row; neither attention takes none.
    """

    model: bytes
    rows: Part
    piece: Part
    layers: int
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
    attentions = [node for node in graph.node if node.op_type == ATTENTION]
    others = sorted({node.op_type for node in graph.node if "Attention" in node.op_type} - {ATTENTION})
    if not attentions or others:
        raise _refused(f"its attention is {', '.join(others) or 'not ' + ATTENTION}, which can't share past and present")
    for node in attentions:
        _carried(node)
    names = {value.name for value in graph.input}
    unknown = names - {"input_ids", "attention_mask", "position_ids"} - {name for node in attentions for name in node.input[PAST]}
    if unknown:
        raise _refused(f"its input {min(unknown)} is not known here")
    heads = {_attribute(node, "kv_num_heads") for node in attentions}
    if len(heads) != 1:
        raise _refused("its layers differ in the number of KV heads")
    vocabulary = _want_positions(graph)
    rows, piece = _parted(graph)
    return SlotsGraph(
        model=model.SerializeToString(),
        rows=rows,
        piece=piece,
        layers=len(attentions),
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


def _carried(node: Any) -> None:
    """Raise `GraphRefused` unless slots can hold what this attention keeps."""
    inputs, outputs = list(node.input), list(node.output)
    if len(inputs) <= LONGEST or len(outputs) < 3 or not all((*inputs[PAST], *outputs[1:3])):
        raise _refused(f"{node.name} keeps no past that it could share")
    if _attribute(node, "sliding_window_cache"):
        raise _refused(f"{node.name} keeps a window of its past only (windowed_kv_cache)")
    if any(inputs[9:11]):
        raise _refused(f"{node.name} is told positions or biases by token, which lie otherwise here")
    if any(inputs[12:14]):
        raise _refused(f"{node.name} keeps quantised keys and values")


def _parted(graph: Any) -> tuple[Part, Part]:
    """Make two of every attention: one for the rows with one token each, which the kernel takes as a batch, and one for the piece."""
    rows, piece = Part("rows", [], []), Part("piece", [], [])
    values = {value.name: value for value in (*graph.input, *graph.output)}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != ATTENTION:
            graph.node.append(node)
            continue
        answers = [_part_of(graph, node, part, values) for part in (rows, piece)]
        both = f"{node.output[0]}/both"
        graph.node.extend([_node("Concat", answers, both, axis=0), _node("GatherND", [both, KEPT], node.output[0])])
        for declared, names in ((graph.input, node.input[PAST]), (graph.output, node.output[1:3])):
            for name in names:
                declared.remove(values[name])
    for part in (rows, piece):
        _input(graph, part.at, INT64, 3)
        _input(graph, part.last, INT32, 1)
        _input(graph, part.longest, INT32, 0)
    _input(graph, KEPT, INT64, 3)
    return rows, piece


def _part_of(graph: Any, node: Any, part: Part, values: dict[str, Any]) -> str:
    """Add one part's attention, with keys and values of its own; answers the name of what it answers, [tokens, width]."""
    own = _message("Node")
    own.CopyFrom(node)
    own.name = f"{node.name}/{part.name}"
    for place, name in enumerate(node.input[:3]):
        if name:
            own.input[place] = f"{name}/{part.name}"
            graph.node.append(_node("GatherND", [name, part.at], own.input[place]))
    own.input[LAST], own.input[LONGEST] = part.last, part.longest
    own.output[0] = f"{node.output[0]}/{part.name}"
    for declared, names, places, told in (
        (graph.input, own.input, range(*PAST.indices(LAST)), part.past),
        (graph.output, own.output, (1, 2), part.present),
    ):
        for place in places:
            value = declared.add()
            value.CopyFrom(values[names[place]])
            value.name = names[place] = f"{value.name}/{part.name}"
            told.append(value.name)
    flat = f"{own.output[0]}/flat"
    graph.node.extend([own, _node("Flatten", [own.output[0]], flat, axis=2)])
    return flat


def _node(kind: str, inputs: list[str], output: str, axis: int | None = None) -> Any:
    node = _message("Node")
    node.op_type, node.name = kind, f"{output}/{kind}"
    node.input.extend(inputs)
    node.output.append(output)
    if axis is not None:
        node.attribute.add(name="axis", i=axis, type=INT)
    return node


def _input(graph: Any, name: str, kind: int, dims: int) -> None:
    tensor = graph.input.add(name=name).type.tensor_type
    tensor.elem_type = kind
    tensor.shape.SetInParent()
    for _ in range(dims):
        tensor.shape.dim.add()


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
    graph.node.insert(place, _node("GatherND", [hidden, WANTED], "pilothouse.hidden"))
    _input(graph, WANTED, INT64, 2)
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
