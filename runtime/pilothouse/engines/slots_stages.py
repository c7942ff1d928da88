"""Places in the exported ONNX file at which a piece of a long prompt can rest, as in `paged_stages`: the flat run of the slots engine as a row of
stages, each with its own tokens.

Where one half of a layer ends and the next begins, all that a token is lies in the outputs of one node: the sum, and in files whose sums are fused with the
norm behind them both of that node's. There the piece's tokens, the last of the run, can be taken out, kept, and put back in a later run.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pilothouse.engines import onnx_parts, stages
from pilothouse.engines.onnx_parts import ATTENTION, FLOAT, INT64

Place = tuple[str, ...]  # the outputs of one node that are read; outputs of the parted graph, too, float [1, tokens, hidden]

HALVES = 2  # of a layer at least are a stage: each place costs some 0.05 ms a step, used or not

_FED = ("input_ids", "position_ids")
_SUMS = ("Add", "SkipSimplifiedLayerNormalization", "SkipLayerNormalization")


def carried(which: int) -> str:
    """Input, float [1, tokens, hidden]: the piece's part of a place's outputs, as it was taken out."""
    return f"pilothouse.carried/{which}"


def coming(stage: int) -> str:
    """Input, int64 [1, tokens, 2]: 0 and, for each of the stage's tokens, its position in the run before and, behind that, what is carried."""
    return f"pilothouse.coming/{stage}"


def find(graph: Any) -> tuple[list[Place], dict[str, int]]:
    """The places between two stages, evenly chosen, and the stage of each attention, by the name of its first output.

    A node is such a place where, in the file's order, only its outputs are still wanted of all that comes of the tokens.
    """
    nodes = _wanted(graph)
    readers = Counter(name for node in nodes for name in _sources(node))
    flow = {name: readers[name] for name in _FED if readers[name]}  # still to be read, how often
    seen = set(flow)
    places: list[Place] = []
    behind: dict[str, int] = {}
    for node in nodes:
        sources = list(_sources(node))
        if not seen.intersection(sources):
            continue
        for name in sources:
            if name in flow:
                flow[name] -= 1
                if not flow[name]:
                    del flow[name]
        if node.op_type == ATTENTION:
            behind[node.output[0]] = len(places)
        outputs = tuple(name for name in node.output if readers[name])
        seen.update(outputs)
        flow |= {name: readers[name] for name in outputs}
        if behind and node.op_type in _SUMS and set(flow) == set(outputs):
            places.append(outputs)
    return stages.choose(places, behind, every=HALVES)


def part(graph: Any, places: Sequence[Place]) -> None:
    """Part the graph at `places`."""
    at = {names[0]: (stage, names) for stage, names in enumerate(places, 1)}
    exchanged: dict[str, str] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        _rename(node, exchanged)
        graph.node.append(node)
        for stage, names in (at[name] for name in node.output if name in at):
            onnx_parts.declare(graph.input, coming(stage), INT64, 3)
            for which, name in enumerate(names):
                both = f"{name}/and carried"
                exchanged[name] = f"{name}/coming"
                onnx_parts.declare(graph.output, name, FLOAT, 3)
                graph.node.extend(
                    [
                        onnx_parts.node("Concat", [name, carried(which)], both, axis=1),
                        onnx_parts.node("GatherND", [both, coming(stage)], exchanged[name]),
                    ]
                )
    for which in range(max(map(len, places), default=0)):
        onnx_parts.declare(graph.input, carried(which), FLOAT, 3)


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Have the node, and what is in its branches, read these in place of those."""
    for place, name in enumerate(node.input):
        node.input[place] = names.get(name, name)
    for inner in _branches(node):
        _rename(inner, names)


def _branches(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from attribute.g.node


def _wanted(graph: Any) -> list[Any]:
    """The nodes that the logits hang on, in the file's order."""
    producers = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    wanted, todo = set[int](), ["logits"]
    while todo:
        place = producers.get(todo.pop(), -1)
        if place >= 0 and place not in wanted:
            wanted.add(place)
            todo += _sources(graph.node[place])
    return [graph.node[place] for place in sorted(wanted)]


def _sources(node: Any) -> Iterator[str]:
    """What a node computes with: of the file's attention only queries, keys and values, for the rest of it is not a token's; and what branches read."""
    yield from (name for name in (node.input[:3] if node.op_type == ATTENTION else node.input) if name)
    for inner in _branches(node):
        yield from _sources(inner)
