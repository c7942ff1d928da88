"""The exported ONNX file as the slots engine runs it: one flat run of tokens, of which the first are one each of several rows and the others a
piece of one row. Everything but attention treats tokens alike; each attention is made two, one for either part. The head computes the wanted
positions only. The graph is a row of stages (`slots_stages`); the piece may go through some of them only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilothouse.engines import onnx_parts, slots_stages
from pilothouse.engines.onnx_parts import ATTENTION, INT32, INT64
from pilothouse.engines.refusals import GraphRefused

WANTED = "pilothouse.wanted"  # int64 [wanted, 2]: 0 and a position in the flat run
PAST, LAST, LONGEST = slice(3, 5), 5, 6  # the attention's inputs, after three of queries, keys and values

_PRODUCTS = ("MatMul", "MatMulNBits", "Gemm")


@dataclass(frozen=True, slots=True)
class Part:
    """The names of what one of the two attentions takes in every layer (that of the piece: of one stage), and of its keys and values, in and out:
    key, value of each layer."""

    name: str
    past: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)

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

    @property
    def kept(self) -> str:
        """Of a piece's part, int64 [1, tokens, 1]: which of what both attentions answer, the rows' first, make the flat run of the stage again."""
        return f"pilothouse.{self.name}.kept"


@dataclass(frozen=True, slots=True)
class SlotsGraph:
    """`model` (a serialised ONNX model) takes input_ids [1, tokens] and what is named here, and answers logits [wanted, vocabulary].

    `rows` have one token each; the piece is of one row, with a part of its own in each stage, which has no layers where the stage has no
    attention. Neither attention takes none.
    """

    model: bytes
    rows: Part
    pieces: list[Part]
    places: list[slots_stages.Place]  # between the stages
    layers: int
    kv_heads: int
    head_size: int
    hidden: int  # width of what lies between layers; 0 where that is not said, and nothing rests
    vocabulary: int
    positions: bool  # position_ids is an input
    original: int | None  # tokens until which a long-rope model uses its short tables; None: one table


def read(folder: Path, file: str = "model.onnx") -> SlotsGraph:
    """Read the exported model in `folder`. Raises `GraphRefused` with what slots can't hold."""
    try:
        model = onnx_parts.read(folder / file)
    except ValueError as error:
        raise _refused(str(error)) from None
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
    heads = {onnx_parts.number(node, "kv_num_heads") for node in attentions}
    if len(heads) != 1:
        raise _refused("its layers differ in the number of KV heads")
    vocabulary = _want_positions(graph)
    head_size, hidden = _sizes(folder)
    places, stages = slots_stages.find(graph) if hidden else ([], {})
    rows, pieces = _parted(graph, len(places) + 1, stages)
    slots_stages.part(graph, places)
    return SlotsGraph(
        model=model.SerializeToString(),
        rows=rows,
        pieces=pieces,
        places=places,
        layers=len(attentions),
        kv_heads=heads.pop(),
        head_size=head_size,
        hidden=hidden,
        vocabulary=vocabulary,
        positions="position_ids" in names,
        original=_original(graph),
    )


def _refused(reason: str) -> GraphRefused:
    return GraphRefused("slots", reason)


def _carried(node: Any) -> None:
    """Raise `GraphRefused` unless slots can hold what this attention keeps."""
    inputs, outputs = list(node.input), list(node.output)
    if len(inputs) <= LONGEST or len(outputs) < 3 or not all((*inputs[PAST], *outputs[1:3])):
        raise _refused(f"{node.name} keeps no past that it could share")
    if onnx_parts.number(node, "sliding_window_cache"):
        raise _refused(f"{node.name} keeps a window of its past only (windowed_kv_cache)")
    if any(inputs[9:11]):
        raise _refused(f"{node.name} is told positions or biases by token, which lie otherwise here")
    if any(inputs[12:14]):
        raise _refused(f"{node.name} keeps quantised keys and values")


def _parted(graph: Any, count: int, stages: Mapping[str, int]) -> tuple[Part, list[Part]]:
    """Make two of every attention: one for the rows with one token each, which the kernel takes as a batch, and one for the piece, in `count`
    stages, of which `stages` has the attention's by the name of what it answers."""
    rows, pieces = Part("rows"), [Part(f"piece/{stage}") for stage in range(count)]
    values = {value.name: value for value in (*graph.input, *graph.output)}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type != ATTENTION:
            graph.node.append(node)
            continue
        piece = pieces[stages.get(node.output[0], 0)]
        answers = [_part_of(graph, node, part, values) for part in (rows, piece)]
        both = f"{node.output[0]}/both"
        graph.node.extend(
            [onnx_parts.node("Concat", answers, both, axis=0), onnx_parts.node("GatherND", [both, piece.kept], node.output[0])]
        )
        for declared, names in ((graph.input, node.input[PAST]), (graph.output, node.output[1:3])):
            for name in names:
                declared.remove(values[name])
    for part in (rows, *(piece for piece in pieces if piece.past)):
        onnx_parts.declare(graph.input, part.at, INT64, 3)
        onnx_parts.declare(graph.input, part.last, INT32, 1)
        onnx_parts.declare(graph.input, part.longest, INT32, 0)
        if part is not rows:
            onnx_parts.declare(graph.input, part.kept, INT64, 3)
    return rows, pieces


def _part_of(graph: Any, node: Any, part: Part, values: dict[str, Any]) -> str:
    """Add one part's attention, with keys and values of its own; answers the name of what it answers, [tokens, width]."""
    own = onnx_parts.new("Node")
    own.CopyFrom(node)
    own.name = f"{node.name}/{part.name}"
    for place, name in enumerate(node.input[:3]):
        if name:
            own.input[place] = f"{name}/{part.name}"
            graph.node.append(onnx_parts.node("GatherND", [name, part.at], own.input[place]))
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
    graph.node.extend([own, onnx_parts.node("Flatten", [own.output[0]], flat, axis=2)])
    return flat


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
    graph.node.insert(place, onnx_parts.node("GatherND", [hidden, WANTED], "pilothouse.hidden"))
    onnx_parts.declare(graph.input, WANTED, INT64, 2)
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


def _sizes(folder: Path) -> tuple[int, int]:
    """Of a head, and of what lies between layers (0 where that is not said)."""
    try:
        decoder = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]
        return int(decoder["head_size"]), int(decoder.get("hidden_size", 0))
    except (OSError, ValueError, KeyError, TypeError):
        raise _refused("genai_config.json with model.decoder.head_size is not beside it") from None
