"""Continuous batching over the exported int4 ONNX file with plain onnxruntime.

For CPUs without int8 dot products and machines without OpenVINO. Each row has a slot in the KV buffers, which are bound in place: rows that
answer lie side by side and go as one batch, a piece of a prompt goes beside them through a view of its own slot. Further pieces go alone.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines import prefix, slots_graph
from pilothouse.engines.base import Capabilities, Logits, Stages, Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.refusals import GraphRefused
from pilothouse.engines.resting import Resting
from pilothouse.engines.slots_kernels import KERNELS, Hidden, Kernels, Piece, Rows
from pilothouse.engines.slots_memory import PrefixStore, SlotMemory

STEP_TOKENS = 128  # more a step is hardly faster, and everyone waits for a step
STORE_SHARE = 4  # of the memory, for prefixes: one part in so many


@dataclass(slots=True)
class _Row:
    slot: int
    chain: prefix.Chain
    prompt: int  # tokens
    length: int  # tokens computed
    reserved: int  # tokens it has room for
    saved: int  # blocks that were offered to the store
    last: int = 0  # tokens of the last step: only they can be rolled back


@dataclass(slots=True)
class _Placed:
    place: int  # of its first logits
    work: Work
    state: _Row


class SlotsStep:
    """A `StepEngine`. Give `rows`, `context` [tokens], `kv_memory_bytes` and `threads` their final values: defaults are made elsewhere.

    Raises `GraphRefused` when the graph can't be held in slots or the memory holds no row.
    """

    name = "slots"
    device = "cpu"
    turn: int | None = None  # its rows end at the original window

    def __init__(
        self,
        folder: Path,
        *,
        threads: int,
        rows: int,
        context: int,
        kv_memory_bytes: int,
        step_tokens: int = 0,
        prefix_cache: bool = True,
        prefix_isolation: bool = True,
        file: str = "model.onnx",
    ) -> None:
        started = time.perf_counter()
        graph = slots_graph.read(folder, file)
        self._kernels = Kernels(folder, graph, threads)
        self._vocabulary, self._layers, self._original, self.stages = graph.vocabulary, graph.layers, graph.original, self._kernels.stages
        context = min(context, graph.original or context)  # beyond, all rows of a batch would have to use the long tables
        token = 2 * graph.layers * graph.kv_heads * graph.head_size * 4
        store = kv_memory_bytes // STORE_SHARE if prefix_cache else 0
        self._budget = (kv_memory_bytes - store) // token
        self.context = min(context, self._budget)
        if self.context < 2:
            raise GraphRefused(
                "slots", f"one token of keys and values is {token} bytes, its memory is {kv_memory_bytes}: raise kv_memory_bytes"
            )
        self._memory = SlotMemory(slots=rows, buffers=2 * graph.layers, heads=graph.kv_heads, context=self.context, size=graph.head_size)
        self._kernels.hold(self._memory)
        self._store = PrefixStore(self._memory, store) if prefix_cache else None
        self.rows = rows
        self.tokens_per_step = self.tokens_alone = step_tokens or max(STEP_TOKENS, 2 * rows)
        self.capabilities = Capabilities(prefix_cache=prefix_cache, rollback=True, lone_drafts=True, batched=True)
        self._isolation = prefix_isolation
        self._reserved = 0  # tokens, of all rows
        self._rows: dict[int, _Row] = {}
        self._at: list[int | None] = [None] * rows  # whose each slot is
        self._text: NDArray[np.int64] = np.empty((rows, self.context), np.int64)  # by row
        self._resting = Resting()
        self._logits: Logits = np.empty((rows, self._vocabulary), np.float32)
        self._threads, self._load_seconds = threads, time.perf_counter() - started

    def __repr__(self) -> str:
        return f"SlotsStep(rows={len(self._rows)}/{self.rows}, tokens={self._reserved}/{self._budget})"

    def admit(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row`, with room for the whole prompt. Returns its tokens that were copied from another's, None without room."""
        if row in self._rows:
            raise ValueError(f"row {row} is open")
        if not 0 < len(prompt) <= self.context:
            raise ValueError(f"a prompt has 1 to {self.context} tokens, not {len(prompt)}")
        if None not in self._at or self._reserved + len(prompt) > self._budget:
            return None
        slot = self._at.index(None)
        chain = prefix.Chain(tenant if self._isolation else "")
        text = self._text[row]
        text[: len(prompt)] = prompt
        found = []
        if self._store is not None:
            found = prefix.find(self._store.blocks, chain, text[: len(prompt)])
            self._store.load(found, slot)
        cached = len(found) * BLOCK
        self._at[slot] = row
        self._reserved += len(prompt)
        self._rows[row] = _Row(slot, chain, prompt=len(prompt), length=cached, reserved=len(prompt), saved=len(found))
        return cached

    def extend(self, row: int, tokens: int) -> bool:
        """Make room for `tokens` more than were fed; False without room."""
        state = self._rows[row]
        wanted = state.length + tokens
        if wanted > self.context:
            return False
        more = max(0, wanted - state.reserved)
        if more and self._reserved + more > self._budget:
            return False
        state.reserved += more
        self._reserved += more
        return True

    def step(self, work: Sequence[Work]) -> Logits:
        """Feed every item; logits [sum of wanted, vocabulary] in the items' order, valid until the next step."""
        for item in work:
            if not self.extend(item.row, len(item.tokens)):
                raise ValueError(f"row {item.row} has no room for {len(item.tokens)} tokens: extend it first")
            self._resting.check(item)
        total = sum(item.wanted for item in work)
        if total > len(self._logits):
            self._logits = np.empty((total, self._vocabulary), np.float32)
        batch: list[_Placed] = []
        pieces: list[_Placed] = []
        at = 0
        for item in work:
            state = self._rows[item.row]
            answers = len(item.tokens) == item.wanted == 1 and state.length and item.stages is None
            (batch if answers else pieces).append(_Placed(at, item, state))
            at += item.wanted
        for piece in pieces[:-1]:  # the last is the one that may rest
            self._run([], piece)
        if work:
            self._run(batch, pieces[-1] if pieces else None)
        return self._logits[:total]

    def _run(self, batch: list[_Placed], piece: _Placed | None) -> None:
        """One run of the kernels: for one token each of `batch`, and for `piece`."""
        first = self._gather([item.work.row for item in batch]) if batch else 0
        batch = sorted(batch, key=lambda item: item.state.slot)
        places = [item.place for item in batch]
        if piece is not None:
            places += range(piece.place, piece.place + piece.work.wanted)
        begin = min(places, default=0)
        together = max(places, default=-1) - begin == len(places) - 1  # else logits of others lie between theirs
        order = np.argsort(places).astype(np.int64, copy=False)
        out = self._logits[begin : begin + len(places)] if together else np.empty((len(places), self._vocabulary), np.float32)
        rows = Rows([item.work.tokens[0] for item in batch], first, [item.state.length + 1 for item in batch])
        left = self._kernels.run(rows, self._piece(piece) if piece is not None else None, order, out)
        if not together:
            self._logits[np.array(places)[order]] = out
        for item in batch:
            self._enter(item)
        if piece is not None:
            self._rest(piece, left)

    def _piece(self, piece: _Placed) -> Piece:
        work, state = piece.work, piece.state
        stages = work.stages or Stages(0, self.stages, self.stages)
        resting = self._resting.hidden if stages.begin else []
        return Piece(work.tokens, state.slot, state.length + len(work.tokens), work.wanted, stages, resting)

    def _enter(self, item: _Placed) -> None:
        """Its tokens are computed."""
        state, end = item.state, item.state.length + len(item.work.tokens)
        self._text[item.work.row, state.length : end] = item.work.tokens
        state.length, state.last = end, len(item.work.tokens)

    def _rest(self, piece: _Placed, left: Hidden) -> None:
        """Keep what left the graph before its end: these tokens are not computed yet. The others are."""
        work, state = piece.work, piece.state
        if work.stages is not None:
            self._resting.rest(work, left)
        if work.stages is None or work.stages.last:
            self._enter(piece)
            if state.length <= state.prompt:
                self._save(work.row, state.length)

    def _gather(self, rows: list[int]) -> int:
        """Bring `rows` into neighbouring slots by the cheapest swaps; answers the first of them."""
        slots = {self._rows[row].slot for row in rows}
        first, count = min(slots), len(rows)
        if max(slots) - first == count - 1:
            return first
        first = min(range(self.rows - count + 1), key=lambda begin: self._cost(slots, begin, count))
        holes = iter(sorted(set(range(first, first + count)) - slots))
        for slot in sorted(slots - set(range(first, first + count))):
            self._swap(slot, next(holes))
        return first

    def _cost(self, slots: set[int], first: int, count: int) -> int:
        """Tokens to copy until exactly `slots` lie from `first` on."""
        window = set(range(first, first + count))
        return sum(self._held(row) for slot, row in enumerate(self._at) if row is not None and (slot in slots) != (slot in window))

    def _held(self, row: int) -> int:
        """Tokens whose keys and values lie in the row's slot, in some layers at least."""
        return self._rows[row].length + self._resting.tokens(row)

    def _swap(self, source: int, target: int) -> None:
        mover, other = self._at[source], self._at[target]
        assert mover is not None
        back = self._held(other) if other is not None else 0
        self._memory.move(source, target, self._held(mover), back)
        self._at[source], self._at[target] = other, mover
        self._rows[mover].slot = target
        if other is not None:
            self._rows[other].slot = source
        else:
            self._memory.free(source)

    def rollback(self, row: int, tokens: int) -> None:
        """Forget the last `tokens` of the row's last step."""
        state = self._rows[row]
        if not 0 <= tokens <= state.last:
            raise ValueError(f"row {row} can go back by {state.last} tokens, not {tokens}")
        state.length -= tokens
        state.last -= tokens

    def withdraw(self, row: int) -> None:
        """Free the row; its full blocks stay as prefixes until their memory is needed."""
        state = self._rows[row]
        self._save(row, state.length)
        self._resting.wake(row)
        del self._rows[row]
        self._reserved -= state.reserved
        self._at[state.slot] = None
        self._memory.free(state.slot)

    def _save(self, row: int, length: int) -> None:
        state = self._rows[row]
        blocks = length // BLOCK
        if self._store is not None and blocks > state.saved:
            self._store.save(state.slot, self._text[row, : blocks * BLOCK], state.chain, state.saved)
            state.saved = blocks

    def usage(self) -> float:
        """Share of the tokens' memory that rows have reserved."""
        return self._reserved / self._budget

    def warm_up(self) -> None:
        """Run a piece of a prompt and a full batch of answers: the first run of all lays the weights out for the kernels."""
        store, self._store = self._store, None  # nothing of it is anybody's prefix
        count = min(self.tokens_per_step, self.context - 1)
        opened = [0] if self.admit(0, [0] * count, "") is not None else []
        opened += [row for row in range(1, self.rows) if self.admit(row, [0], "") is not None]
        for row in opened:
            self.step([Work(row, [0] * self._rows[row].prompt, 1)])
        self.step([Work(row, [0], 1) for row in opened if self.extend(row, 1)])
        for row in opened:
            self.withdraw(row)
        self._store = store

    def describe(self) -> dict[str, Any]:
        """Facts for metadata and the log."""
        return {
            "engine": self.name,
            "kernels": KERNELS,
            "compute": "int8 products of 4-bit weights as the file says",
            "kv_precision": "fp32",
            "kv_tokens": self._budget,
            "kv_bytes_per_token": self._memory.token_bytes,
            "prefix_blocks": self._store.blocks.count if self._store is not None else 0,
            "threads": self._threads,
            "rows": self.rows,
            "context_tokens": self.context,
            "step_tokens": self.tokens_per_step,
            "stages": self.stages,
            "layers": self._layers,
            "vocabulary": self._vocabulary,
            "graph_features": ["long rope, within its original window"] if self._original else [],
            "load_seconds": round(self._load_seconds, 3),
        }

    def close(self) -> None:
        """Free the kernels, the weights and the buffers."""
        del self._kernels, self._memory, self._store, self._rows, self._logits, self._resting
