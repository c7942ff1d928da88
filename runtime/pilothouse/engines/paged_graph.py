"""The exported ONNX file as a paged graph, rewritten in memory when it loads.

The file's GroupQueryAttention keeps one KV buffer per row, which makes batches rectangular and prefixes a copy. OpenVINO's CPU plugin has
the paged form of the same attention, so each such node becomes rotary embedding + paged attention: all rows' tokens go in as one flat
batch, KV lives in shared blocks, and what is behind the last attention runs at the wanted positions only. What can't be carried exactly is refused by name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.op as op
import openvino.opset15 as ops

from pilothouse.engines import paged_narrowing, paged_operators
from pilothouse.engines.paged_stages import StagedGraph, parameter
from pilothouse.engines.refusals import GraphRefused

OPERATOR_INPUTS = 28  # of the private paged operator, in the pinned version; tests/engines/test_paged_graph.py holds both
FEEDS = {
    "input_ids": ov.Type.i32,  # [tokens], as the rest unless noted
    "position_ids": ov.Type.i32,
    "past_lens": ov.Type.i32,  # [sequences]
    "subsequence_begins": ov.Type.i32,  # [sequences + 1], into the tokens
    "block_indices": ov.Type.i32,
    "block_indices_begins": ov.Type.i32,  # [sequences + 1], into block_indices
    "wanted": ov.Type.i32,  # which tokens' logits
    "max_context_len": ov.Type.i32,  # scalar
}


@dataclass(slots=True)
class PagedGraph:
    """`model` takes `FEEDS`, key_cache.N / value_cache.N and what `paged_stages` adds. It answers logits [wanted, 1, vocabulary] and, where
    there are stages, the rows that are taken out [rows, 1, hidden]."""

    model: ov.Model
    layers: int
    stages: int
    vocabulary: int
    # Long rotary tables stand after the short ones: a row that outgrows `original` tokens takes positions from `original` on. None: one table.
    original: int | None
    context: int  # tokens of a row: as asked, or what the rotary tables reach
    features: list[str]
    kept: list[Any] = field(default_factory=list)  # owns memory that the compiled model reads: keep it as long


def read(path: Path, context: int) -> PagedGraph:
    """Read `path` and rewrite it for rows of at most `context` tokens. Raises `GraphRefused` with what can't be carried."""
    kept: list[Any] = []
    model, failed = None, ""
    for extensions in ([paged_operators.embedding(), paged_operators.product(kept)], [paged_operators.embedding()]):
        core = ov.Core()
        for extension in extensions:
            core.add_extension(extension)
        try:
            model = core.read_model(path)
            break
        except RuntimeError as error:
            operators = re.search(r"Conversion is failed for: ([\w., -]+)", str(error))
            failed = f"its operators {operators[1]}" if operators else "the file"
    if model is None:
        raise _refused(f"OpenVINO can't read {failed}")
    graph = _Rewriter(model, context).run()
    graph.kept = kept
    return graph


def _refused(reason: str) -> GraphRefused:
    return GraphRefused("paged", reason)


class _Rewriter:
    def __init__(self, model: ov.Model, context: int) -> None:
        self.model = model
        self.context = context
        self.feeds = {name: parameter(name, [] if name == "max_context_len" else [-1], kind) for name, kind in FEEDS.items()}
        self.flat: list[Any] = []
        self.attended: Any = None  # what the last attention answers
        self.tables: dict[str, Any] = {}
        self.original: int | None = None
        self.features: set[str] = set()

    def run(self) -> PagedGraph:
        logits = next((x for x in self.model.outputs if "logits" in x.get_names()), None)
        if logits is None:
            raise _refused("it has no output named logits")
        vocabulary = logits.get_partial_shape()[2]
        if not vocabulary.is_static:
            raise _refused("its vocabulary has no fixed size")
        self._flatten("input_ids", "input_ids")
        self._flatten("position_ids", "position_ids", required=False)
        order = self.model.get_ordered_ops()
        attentions = [n for n in order if n.get_type_name() == "GroupQueryAttention"]
        if not attentions:
            raise _refused("it has no GroupQueryAttention")
        self.stages = StagedGraph(logits.get_node(), order, self.feeds)
        caches = [cache for index, node in enumerate(attentions) for cache in self._attention(node, index)]
        self._wanted_positions(logits.get_node())
        result, leaving = logits.get_node(), self.stages.part(self.flat)
        self._check_inputs(result)
        results = [result] if leaving is None else [result, leaving]
        paged = ov.Model(results, [*self.feeds.values(), *self.stages.parameters, *caches], "paged")
        return PagedGraph(
            paged, len(attentions), self.stages.count, vocabulary.get_length(), self.original, self.context, sorted(self.features)
        )

    def _flatten(self, name: str, feed: str, *, required: bool = True) -> None:
        """An input [batch, length] becomes [tokens, 1]: every token is a batch row of its own, only attention knows whose it is."""
        port = next((x for x in self.model.inputs if name in x.get_names()), None)
        if port is None:
            if required:
                raise _refused(f"it has no input named {name}")
            return
        flat = ops.unsqueeze(self.feeds[feed], ops.constant(np.int64(1)))
        self.flat.append(flat)
        targets = list(port.get_target_inputs())
        if any(target.get_node().get_type_name() != "Gather" for target in targets):
            flat = ops.convert(flat, port.get_element_type())
        for target in targets:
            target.replace_source_output(flat.output(0))

    def _attention(self, node: Any, index: int) -> tuple[Any, Any]:
        a = node.get_attributes()
        self._check_attention(node, a)
        heads, kv_heads = a["num_heads"], a["kv_num_heads"]
        size = node.input_value(0).get_partial_shape()[3].get_length()
        if kv_heads < heads:
            self.features.add("grouped heads")
        stage = self.stages.of(node)
        rotate = self._rotary(node, size, stage) if a["do_rotary"] else lambda x: x
        window = max(0, a["local_window_size"])
        if window:
            self.features.add("sliding window")

        key, value = (
            parameter(f"{name}_cache.{index}", [-1] * 4, ov.Type.dynamic) for name in ("key", "value")
        )  # the plugin picks type and layout
        paged = self._operator(
            _flat(rotate(node.input_value(0)), heads * size),
            _flat(rotate(node.input_value(1)), kv_heads * size),
            _flat(node.input_value(2), kv_heads * size),
            key,
            value,
            scale=a["scale"] or size**-0.5,
            window=window,
            stage=stage,
        )
        info = paged.get_rt_info()
        info["num_k_heads"] = info["num_v_heads"] = kv_heads
        info["k_head_size"] = info["v_head_size"] = size
        out = ops.reshape(paged.output(0), ops.constant(np.array([-1, 1, heads * size])), False)
        for target in list(node.output(0).get_target_inputs()):
            target.replace_source_output(out.output(0))
        self.attended = out
        return key, value

    def _operator(
        self, query: Any, key: Any, value: Any, key_cache: Any, value_cache: Any, *, scale: float, window: int, stage: int
    ) -> Any:
        none_f, none_i, none_b = (_empty(t) for t in (np.float32, np.int32, np.uint8))
        inputs = [
            query, key, value, key_cache, value_cache,
            *(self.stages.feed(name, stage) for name in ("past_lens", "subsequence_begins", "block_indices", "block_indices_begins")),
            ops.constant(np.float32(scale)), ops.constant(np.int32(window)),
            none_f,  # alibi slopes
            self.feeds["max_context_len"],
            none_i,  # score aggregation window
            none_i, none_i, none_f,  # rotated blocks: indices, deltas, table
            none_f, ops.constant(np.int32(0)), ops.constant(np.int32(0)),  # xattention: threshold, block size, stride
            _empty(np.float32, (0, 0, 0, 0)),  # sinks
            ops.constant(np.int32(0)),  # adaptive eviction: start size, and what it keeps
            none_i, none_i, none_i, none_i, none_b, none_i,
        ]  # fmt: skip
        return op._PagedAttentionExtension([x.output(0) if isinstance(x, ov.Node) else x for x in inputs])

    def _check_attention(self, node: Any, a: dict[str, Any]) -> None:
        name = node.get_friendly_name()
        used = [i for i in range(node.get_input_size()) if not _is_empty(node.input_value(i))]
        parts = {
            9: "position ids",
            10: "an attention bias",
            11: "attention sinks",
            12: "quantised keys",
            13: "quantised values",
            14: "a query norm",
            15: "a key norm",
        }
        for index, part in parts.items():
            if index in used:
                raise _refused(f"{name} has {part} as an input")
        if a["k_quant_type"] != "NONE" or a["v_quant_type"] != "NONE":
            raise _refused(f"{name} keeps quantised keys and values")
        if a["rotary_interleaved"]:
            raise _refused(f"{name} has an interleaved rotary embedding")
        if a["smooth_softmax"]:
            raise _refused(f"{name} has a smooth softmax")
        if not a["causal"]:
            raise _refused(f"{name} is not causal")
        shape = node.input_value(0).get_partial_shape()
        if shape.rank.get_length() != 4 or not shape[3].is_static:
            raise _refused(f"{name} has a head size that is not fixed")
        if node.input_value(0).get_element_type() != ov.Type.f32:
            raise _refused(f"{name} computes in {node.input_value(0).get_element_type().get_type_name()}: a build for other hardware")

    def _rotary(self, node: Any, size: int, stage: int) -> Callable[[Any], Any]:
        cos, sin = self._table(node.input_value(7), stage), self._table(node.input_value(8), stage)
        turned = 2 * cos.get_output_partial_shape(0)[3].get_length()
        if turned < size:
            self.features.add("partial rotary")

        def rotate(x: Any) -> Any:
            lengths = [turned // 2, turned // 2] + ([size - turned] if turned < size else [])
            left, right, *rest = ops.variadic_split(x, ops.constant(np.int64(3)), ops.constant(np.array(lengths))).outputs()
            turned_left = ops.subtract(ops.multiply(left, cos), ops.multiply(right, sin))
            turned_right = ops.add(ops.multiply(right, cos), ops.multiply(left, sin))
            return ops.concat([turned_left, turned_right, *rest], 3)

        return rotate

    def _table(self, source: Any, stage: int) -> Any:
        """Rows of a rotary table at the fed positions, [tokens, 1, 1, rotated / 2]; one node for all layers of a stage."""
        node = source.get_node()
        name = f"{node.get_friendly_name()}.{source.get_index()}"
        if name not in self.tables:
            at = ops.gather(
                ops.constant(self._whole_table(node, source.get_index())), self.feeds["position_ids"], ops.constant(np.int64(0))
            )
            self.tables[name] = ops.unsqueeze(at, ops.constant(np.array([1, 2])))
        return self.stages.rows(name, self.tables[name], stage)

    def _whole_table(self, node: Any, output: int) -> Any:
        if node.get_type_name() == "Constant":
            return self._reach(node)
        if node.get_type_name() == "If":
            return self._long_and_short(node, output)
        raise _refused(f"its rotary table {node.get_friendly_name()} is computed in a way that is not known here")

    def _long_and_short(self, node: Any, output: int) -> Any:
        """Long-rope: the file takes another table for the whole row once it outgrows the original window. Both are laid in one, short first."""
        found = []
        for body in (node.get_function(0), node.get_function(1)):
            constant = body.get_results()[output].input_value(0).get_node()
            if constant.get_type_name() != "Constant":
                raise _refused(f"its rotary table {node.get_friendly_name()} is computed in a way that is not known here")
            found.append(constant)
        long, short = sorted(found, key=lambda c: -c.get_output_partial_shape(0)[0].get_length())
        original = short.get_output_partial_shape(0)[0].get_length()
        if self.context <= original:
            return self._reach(short)
        self.features.add("long rope")
        self.original = original
        return np.concatenate([short.get_data(), self._reach(long)])

    def _reach(self, constant: Any) -> Any:
        """A table's rows for the context, as a copy: the rest of a 128 Ki window is never touched. A shorter table ends the context."""
        rows = constant.get_data()
        self.context = min(self.context, len(rows))
        return np.array(rows[: self.context], np.float32)

    def _wanted_positions(self, result: Any) -> None:
        head = result.input_value(0).get_node()
        while head.get_type_name() != "MatMul":
            if not head.get_input_size():
                raise _refused("its logits don't come from a matrix product")
            head = head.input_value(0).get_node()
        paged_narrowing.narrow(head, self.attended, self.flat, self.feeds["wanted"])

    def _check_inputs(self, result: Any) -> None:
        """Whatever of the file's own inputs the logits still hang on is a part we did not carry."""
        own = {p.get_friendly_name() for p in [*self.feeds.values(), *self.stages.parameters]}
        seen, queue = set(), [result]
        while queue:
            node = queue.pop()
            if node.get_friendly_name() in seen:
                continue
            seen.add(node.get_friendly_name())
            if node.get_type_name() == "Parameter" and node.get_friendly_name() not in own and "_cache." not in node.get_friendly_name():
                raise _refused(f"its logits depend on the input {node.get_friendly_name()}")
            queue += [x.get_node() for x in node.input_values()]


def _flat(x: Any, width: int) -> Any:
    return ops.reshape(x, ops.constant(np.array([-1, width])), False)


def _empty(kind: Any, shape: tuple[int, ...] = (0,)) -> Any:
    return ops.constant(np.zeros(shape, kind))


def _is_empty(source: Any) -> bool:
    shape = source.get_partial_shape()
    return bool(source.get_node().get_type_name() == "Constant" and shape.is_static and 0 in shape.to_shape())
