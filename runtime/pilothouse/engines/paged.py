"""Continuous batching with paged attention over the exported int4 ONNX file, on OpenVINO's CPU kernels.

The fastest way on CPUs with int8 dot products: one flat batch of tokens a step mixes decoding rows and pieces of prompts, keys and values
lie in blocks of one pool that rows share where their texts begin alike, and a draft is taken back by lowering a length.
"""

import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino as ov

from pilothouse.engines import paged_graph
from pilothouse.engines.base import Capabilities, Logits, Stages, Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.large_pages import zeroed
from pilothouse.engines.paged_batch import Batch
from pilothouse.engines.paged_rows import Rows
from pilothouse.engines.paged_stages import TAKEN
from pilothouse.engines.refusals import GraphRefused
from pilothouse.engines.resting import Resting

STEP_TOKENS = 128  # more a step is hardly faster, and everyone waits for a step
ALONE = 2  # steps in one for a prompt with nobody beside it: 2 to 4 % sooner, for the weights are unpacked half as often
ALIGNED = 64  # bytes, a line of the caches: where a tensor of the pool begins
PRECISIONS = {"fp16": "f16", "u8": "u8"}
COMPUTE = {"float32": "f32", "bfloat16": "bf16"}  # f32 multiplies weights as int8, and is exact in any batch


class PagedStep:
    """A `StepEngine`. Give `rows`, `context` [tokens], `kv_memory_bytes` and `threads` their final values: defaults are made elsewhere.

    Raises `GraphRefused` when the graph can't be carried exactly or the memory holds no row.
    """

    name = "paged"
    device = "cpu"

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        rows: int,
        context: int,
        kv_memory_bytes: int,
        kv_precision: Literal["fp16", "u8"] = "fp16",
        dtype: Literal["float32", "bfloat16"] = "float32",
        step_tokens: int = 0,
        prefix_cache: bool = True,
        prefix_isolation: bool = True,
        file: str = "model.onnx",
    ) -> None:
        started = time.perf_counter()
        core = ov.Core()
        if dtype == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise GraphRefused("paged", "this CPU has no bfloat16 (AMX or AVX512-BF16): leave dtype at auto")
        graph = paged_graph.read(folder / file, context)
        compiled = core.compile_model(
            graph.model,
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "ENABLE_CPU_PINNING": False,  # the container's cores are not ours alone
                "INFERENCE_PRECISION_HINT": COMPUTE[dtype],
                "KV_CACHE_PRECISION": PRECISIONS[kv_precision],
                "TBB_PARTITIONER": "AUTO",  # halves, as by default, are of 64 tokens: a step of 65 would cost what one of 128 does
            },
        )
        self._features, self._vocabulary, self._layers, original = graph.features, graph.vocabulary, graph.layers, graph.original
        self._kept, context, self.turn, self.stages = graph.kept, graph.context, original, graph.stages
        del graph
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        # What its own `infer` wraps, which costs 20 us a step.
        self._infer = super(ov.InferRequest, self._request).infer  # type: ignore[misc]  # the stubs do not know its base
        self._kv = _Caches(compiled, kv_memory_bytes, rows * -(-context // BLOCK))
        self.rows = rows
        self.context = min(context, self._kv.blocks * BLOCK)
        self.tokens_per_step = step_tokens or max(STEP_TOKENS, 2 * rows)
        self.tokens_alone = step_tokens or ALONE * self.tokens_per_step
        self.capabilities = Capabilities(
            prefix_cache=prefix_cache, rollback=True, batched=True, exact=(kv_precision, dtype) == ("fp16", "float32")
        )
        self._kv.bind(self._request)
        self._table = {
            "rows": rows, "context": self.context, "blocks": self._kv.blocks,
            "prefix_cache": prefix_cache, "prefix_isolation": prefix_isolation, "original": original,
        }  # fmt: skip
        self._rows = Rows(**self._table)
        self._batch = Batch(
            compiled, self._request, tokens=self.tokens_alone, rows=rows,
            blocks=self._rows.tables.shape[1], scratch=self._kv.blocks,
        )  # fmt: skip
        self._resting = Resting()
        self._threads, self._load_seconds = threads, time.perf_counter() - started
        self._precision = "bf16" if (kv_precision, dtype) == ("fp16", "bfloat16") else kv_precision  # the kernels have no fp16 beside bf16

    def __repr__(self) -> str:
        return f"PagedStep(rows={len(self._rows)}/{self.rows}, {self._rows.blocks!r})"

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row`, with room for the whole prompt. Returns its tokens that are shared already, None without room."""
        return self._rows.open(row, prompt, tenant, answered)

    def extend(self, row: int, tokens: int) -> bool:
        """Make room for `tokens` more than were fed; False without room."""
        return self._rows.reserve(row, tokens)

    def step(self, work: Sequence[Work]) -> Logits:
        """Feed every item; logits [sum of wanted, vocabulary] in the items' order, valid until the next step."""
        for item in work:
            if not self._rows.reserve(item.row, len(item.tokens)):
                raise ValueError(f"row {item.row} has no room for {len(item.tokens)} tokens: extend it first")
            self._resting.check(item)
            self._rows.settle(item.row)
        if self._table["original"] and any(self._turns(item) for item in work):
            return self._step_turning(work)
        return self._compute(work)

    def _turns(self, item: Work) -> bool:
        return self._rows.turned(item.row, self._rows[item.row].length + len(item.tokens))

    def _step_turning(self, work: Sequence[Work]) -> Logits:
        """A step in which a row outgrows the original window of a long-rope model (or, rolled back, fits it again).

        The file computes the whole row with other tables then, so the row is computed anew before its tokens are fed. Such rows go one
        by one, cut at the border: it is rare, and worth no better.
        """
        staying = [item for item in work if not self._turns(item)]
        together = self._compute(staying).copy() if staying else self._none()
        parts, at = [self._none()], 0
        for item in work:
            if any(item is other for other in staying):
                parts.append(together[at : at + item.wanted])
                at += item.wanted
                continue
            for piece in self._pieces(item):
                if self._turns(piece):
                    self._again(piece.row)
                parts.append(self._compute([piece]).copy())
        return np.concatenate(parts)

    def _none(self) -> Logits:
        return np.empty((0, self._vocabulary), np.float32)

    def _pieces(self, item: Work) -> list[Work]:
        """`item`, cut where its row reaches the original window; a row whose prompt was longer never was within it."""
        row, original = self._rows[item.row], self._table["original"]
        cut = original - row.length
        if row.prompt > original or not 0 < cut < len(item.tokens):
            return [item]
        after = len(item.tokens) - cut
        return [
            Work(item.row, item.tokens[:cut], max(0, item.wanted - after)),
            Work(item.row, item.tokens[cut:], min(item.wanted, after)),
        ]

    def _again(self, row: int) -> None:
        last, length = self._rows[row].last, self._rows.turn(row)
        text = self._rows.tokens[row, :length].tolist()
        for begin, end in pairwise([*range(0, length, self.tokens_per_step), length]):
            self._compute([Work(row, text[begin:end], 0)])
        self._rows[row].last = last

    def _compute(self, work: Sequence[Work]) -> Logits:
        for item in work:
            self._rows.append(item.row, item.tokens)
        wanted = self._batch.fill(work, self._rows)
        logits: Logits = next(iter(self._infer({}, share_outputs=True, decode_strings=False).values()))
        if work[-1].stages is not None:
            self._rest(work[-1], work[-1].stages)
        for item in work:
            self._rows.offer(item.row)
        return logits.reshape(-1, self._vocabulary)[:wanted]

    def _rest(self, piece: Work, stages: Stages) -> None:
        """Keep what left the graph before its end: these tokens are not computed yet."""
        self._resting.rest(piece)
        if not stages.last:
            self._batch.carry(self._request.get_tensor(TAKEN).data.copy())
            self._rows.rollback(piece.row, len(piece.tokens))

    def rollback(self, row: int, tokens: int) -> None:
        """Forget the last `tokens` of the row's last step."""
        self._rows.rollback(row, tokens)

    def withdraw(self, row: int) -> None:
        """Free the row; its full blocks stay as prefixes until their memory is needed."""
        self._rows.close(row)
        self._resting.wake(row)

    def usage(self) -> float:
        """Share of the blocks that rows hold."""
        return self._rows.blocks.used / self._rows.blocks.count

    def warm_up(self) -> None:
        """Run a piece of a prompt, a full batch of answers and one alone: what is slow the first time is slow in one of these."""
        prompt = [0] * min(self.tokens_per_step, self.context - 1)
        self._rows.open(0, prompt, "")
        self._compute([Work(0, prompt, 1)])  # the first of all lays the weights out for the kernels
        self._rows.settle(0)
        opened = [0] + [row for row in range(1, self.rows) if self._rows.open(row, [0], "") is not None]
        self._compute([Work(row, [0], 1) for row in opened if self._rows.reserve(row, 1)])
        self._rows.rollback(0, self._rows[0].last)
        alike = self._alone_as_in_company()
        self._batch.accompanied = self.capabilities.exact and not alike
        self._rows = Rows(**self._table)  # nothing of it is anybody's prefix

    def _alone_as_in_company(self) -> bool:
        """Whether this graph's products give a token the same bits alone as beside another: those of 4-bit weights do, others need not."""
        for token in (self._vocabulary // 3, 2 * self._vocabulary // 3):
            if not self._rows.reserve(0, 1):
                return False
            answers: list[Logits] = []
            for self._batch.accompanied in (True, False):
                answers.append(self._compute([Work(0, [token], 1)]).copy())
                self._rows.rollback(0, 1)
            if not np.array_equal(answers[0], answers[1]):
                return False
        return True

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": f"OpenVINO {ov.__version__.partition('-')[0]} CPU, paged attention",
            "compute": str(self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()),
            "kv_precision": self._precision,
            "kv_block_tokens": BLOCK,
            "kv_blocks": self._kv.blocks,
            "kv_bytes_per_token": self._kv.block_bytes // BLOCK,
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "step_tokens": self.tokens_per_step,
            "step_tokens_alone": self.tokens_alone,
            "companion": self._batch.accompanied,
            "stages": self.stages,
            "layers": self._layers,
            "vocabulary": self._vocabulary,
            "graph_features": self._features,
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free the kernels, the weights and the pool."""
        del self._batch, self._infer, self._request, self._compiled, self._kv, self._rows, self._kept


class _Caches:
    """The pool's memory, one tensor [blocks, kv heads, 32, head size] for the keys and one for the values of each layer.

    Side by side in one mapping: zeroed, as the kernels want it, without cost until a block is used, and on large pages. One block more than
    `blocks` belongs to no row.
    """

    def __init__(self, compiled: Any, available: int, most: int) -> None:
        self._ports = [(x.get_any_name(), x) for x in compiled.inputs if "_cache." in x.get_any_name()]
        shapes = [[d.get_length() for d in list(port.get_partial_shape())[1:]] for _, port in self._ports]
        sizes = [int(np.prod(s)) * port.get_element_type().size for s, (_, port) in zip(shapes, self._ports, strict=True)]
        self.block_bytes = sum(sizes)
        self.blocks = min(available // self.block_bytes, 2 * most)  # beyond every row at its longest, as much again for prefixes
        if self.blocks < 2:
            raise GraphRefused(
                "paged", f"one block of keys and values is {self.block_bytes} bytes, its memory is {available}: raise kv_memory_bytes"
            )
        starts = [0, *accumulate(-(-(self.blocks + 1) * size // ALIGNED) * ALIGNED for size in sizes)]
        memory = zeroed(starts[-1])
        self._tensors = []
        for start, shape, (_, port) in zip(starts, shapes, self._ports, strict=False):
            kind, whole = port.get_element_type(), [self.blocks + 1, *shape]
            array = np.frombuffer(memory, kind.to_dtype(), int(np.prod(whole)), start)  # bf16 as fp16, which is as wide: numpy has none
            self._tensors.append(ov.Tensor(array, ov.Shape(whole), kind))

    def bind(self, request: Any) -> None:
        for (name, _), tensor in zip(self._ports, self._tensors, strict=True):
            request.set_tensor(name, tensor)
