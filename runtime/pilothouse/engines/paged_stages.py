"""Places at which a piece of a long prompt can rest: the graph as a row of stages, each with its own tokens.

Between two halves of a layer all that a token is lies in one tensor [tokens, 1, hidden]. There the rows of a piece can be taken out, kept, and put
back in a later run, while the rows of everybody else go through all stages in every run. So one graph, with its weights once, computes a large
piece over several steps: its attention lays out the keys before it once for the whole piece, and no step is long.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops

from pilothouse.engines import stages

ATTENTION = "GroupQueryAttention"
CARRIED = "carried"  # input: the rows of the piece, as they were taken out, [rows, 1, hidden]
COMING = "coming"  # input of each stage: its rows, out of those of the stage before and, behind them, the carried ones
LEAVING = "leaving"  # input of each stage but the first: the rows that are taken out before it
TAKEN = "taken"  # output: the piece's rows, as they will be carried
OWN = ("past_lens", "subsequence_begins", COMING)  # what differs by whether the piece goes through a stage


class StagedGraph:
    """One graph's stages. Make it while attention is still the file's own, take the rewritten one's inputs from it, then `part` the graph.

    Every stage has inputs of its own, `NAME/STAGE`. Rows are taken by index: the kernels have to know every length before they begin, and would
    stop at each one that is the result of another node.
    """

    def __init__(self, logits: Any, order: Sequence[Any], feeds: dict[str, Any]) -> None:
        """`order` is of the whole graph, topological."""
        self.parameters: list[Any] = []
        self._feeds = feeds
        self._cuts, self._attentions = _cuts(logits, order)
        self._made: dict[tuple[str, int], Any] = {}

    @property
    def count(self) -> int:
        """1 where there is no place to rest."""
        return len(self._cuts) + 1

    def of(self, attention: Any) -> int:
        """An attention's stage. One that the logits do not hang on has none; it does not matter which it gets."""
        return self._attentions.get(attention.get_friendly_name(), 0)

    def feed(self, name: str, stage: int) -> Any:
        """What attention in `stage` is fed."""
        return self._input(name, stage) if stage and name in OWN else self._feeds[name]

    def rows(self, name: str, table: Any, stage: int) -> Any:
        """The rows of `table` [tokens, ...] in `stage`."""
        if not self._cuts:
            return table
        if (name, stage) not in self._made:
            self._made[name, stage] = take(table, self._input(COMING, stage))
        return self._made[name, stage]

    def part(self, flat: Sequence[Any]) -> Any:
        """Part the graph; answers the output of the rows that leave it before its end, [rows, 1, hidden], or None where there is one stage.

        `flat` are the nodes through which the file's own parts read the tokens and their positions: all of them do so in the first stage, for no
        place is a place to rest while either is still read.
        """
        if not self._cuts:
            return None
        hidden = self._cuts[0].output(0).get_partial_shape()[2].get_length()
        carried = parameter(CARRIED, [-1, 1, hidden], ov.Type.f32)
        self.parameters.append(carried)
        for node in flat:
            node.input(0).replace_source_output(take(node.input_value(0), self._input(COMING, 0)).output(0))
        leaving = []
        for stage, cut in enumerate(self._cuts, 1):
            _insert(cut.output(0), partial(self._exchange, carried, stage))
            leaving.append(take(cut, self._input(LEAVING, stage)))
        taken = ops.concat(leaving, 0)
        taken.output(0).set_names({TAKEN})
        return ops.result(taken)

    def _exchange(self, carried: Any, stage: int, rows: Any) -> Any:
        return take(ops.concat([rows, carried], 0), self._input(COMING, stage))

    def _input(self, name: str, stage: int) -> Any:
        if (name, stage) not in self._made:
            self._made[name, stage] = parameter(f"{name}/{stage}", [-1], ov.Type.i32)
            self.parameters.append(self._made[name, stage])
        return self._made[name, stage]


def take(table: Any, rows: Any) -> Any:
    """The `rows` of `table`, by index."""
    return ops.gather(table, rows, ops.constant(np.int32(0)))


def _insert(output: Any, make: Callable[[Any], Any]) -> None:
    """Have those who read `output` read what `make` makes of it."""
    targets = list(output.get_target_inputs())
    made = make(output)
    for target in targets:
        target.replace_source_output(made.output(0))


def parameter(name: str, shape: list[int], kind: ov.Type) -> Any:
    made = ops.parameter(ov.PartialShape(shape), kind, name=name)
    made.output(0).set_names({name})
    return made


def _cuts(logits: Any, order: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
    """The nodes whose output is all that goes on between two stages, evenly chosen, and each attention's stage.

    A node is such a place where everything before it is read by nobody behind it: where, in a topological order, its output alone is still
    wanted. Sums only: that is where a layer, or its half, ends.
    """
    wanted, todo = set(), [logits]
    while todo:
        node = todo.pop()
        if node.get_friendly_name() not in wanted:
            wanted.add(node.get_friendly_name())
            todo += [source.get_node() for source in _sources(node)]
    flow: set[str] = set()
    readers: dict[tuple[str, int], int] = {}  # still to come, of each output
    places: list[Any] = []
    behind: dict[str, int] = {}  # places before each attention
    for node in order:
        name = node.get_friendly_name()
        if name not in wanted or not (_is_fed(node) or any(x.get_node().get_friendly_name() in flow for x in _sources(node))):
            continue
        flow.add(name)
        for source in _sources(node):
            key = (source.get_node().get_friendly_name(), source.get_index())
            if key in readers:
                readers[key] -= 1
                if not readers[key]:
                    del readers[key]
        if node.get_type_name() == ATTENTION:
            behind[name] = len(places)
        for output in node.outputs():
            count = sum(_reads(target) for target in output.get_target_inputs() if target.get_node().get_friendly_name() in wanted)
            if count:
                readers[name, output.get_index()] = count
        if behind and [key[0] for key in readers] == [name] and _is_sum(node):
            places.append(node)
    # Behind the last attention few tokens are left (`paged_narrowing`): all of that goes with it.
    return stages.choose(places[: max(behind.values(), default=0)], behind)


def _sources(node: Any) -> list[Any]:
    """What a node computes with; of the file's attention only queries, keys and values: the rest of it is not carried over."""
    sources: list[Any] = node.input_values()
    return sources[:3] if node.get_type_name() == ATTENTION else sources


def _reads(target: Any) -> int:
    return int(target.get_node().get_type_name() != ATTENTION or target.get_index() < 3)


def _is_fed(node: Any) -> bool:
    return bool(node.get_type_name() == "Parameter" and node.get_friendly_name() in ("input_ids", "position_ids"))


def _is_sum(node: Any) -> bool:
    return bool(node.get_type_name() == "Add" and is_a_row_a_token(node.output(0)))


def is_a_row_a_token(source: Any) -> bool:
    """Whether an output is [tokens, 1, width] in float32, as all that layers hand on."""
    shape = source.get_partial_shape()
    return bool(source.get_element_type() == ov.Type.f32 and shape.rank.is_static and shape.rank.get_length() == 3 and shape[2].is_static)
