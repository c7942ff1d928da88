"""The slots engine's session and what its runs are fed: inputs, keys, values and logits are bound in place."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pilothouse.engines.base import Logits, Stages
from pilothouse.engines.refusals import GraphRefused
from pilothouse.engines.slots_graph import WANTED, Part, SlotsGraph
from pilothouse.engines.slots_memory import SlotMemory
from pilothouse.engines.slots_stages import carried, coming

KERNELS = f"onnxruntime {ort.__version__} CPU"

_SHORT = np.ones((1, 1), np.int64)  # a mask is asked for, and read where a long-rope model chooses its tables: always the short ones
_FIRST, _LONE = np.zeros((1, 1, 2), np.int64), np.ones(1, np.int32)  # the first token of the run, as a row that has no other
_KINDS = {"tensor(float)", "tensor(int64)", "tensor(int32)"}

Hidden = list[NDArray[np.float32]]  # what rests of a piece between two stages, [1, tokens, hidden] each


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows with a token each, in neighbouring slots from `first` on; `ends` are the tokens that each has then."""

    tokens: Sequence[int]
    first: int
    ends: Sequence[int]


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one row, in `slot`, that has `end` of them then, with logits `wanted` of the last; through all stages, or these. `resting` is
    what was taken out before the first of them, if it is not the graph's first."""

    tokens: Sequence[int]
    slot: int
    end: int
    wanted: int
    stages: Stages
    resting: Sequence[NDArray[np.float32]] = ()


class Kernels:
    """onnxruntime with one graph and the slots' memory. Raises `GraphRefused` when it can't compute that here."""

    def __init__(self, folder: Path, graph: SlotsGraph, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are not ours alone
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        options.log_severity_level = 4  # what goes wrong is raised
        try:
            session = ort.InferenceSession(graph.model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen of its own, without a common one
            raise GraphRefused("slots", f"onnxruntime can't load it ({type(error).__name__})") from error
        odd = {x.type for x in (*session.get_inputs(), *session.get_outputs())} - _KINDS
        if odd:
            raise GraphRefused("slots", f"it computes in {min(odd)}: a build for other hardware")
        self.stages = len(graph.pieces)
        self._session, self._positions = session, graph.positions
        self._rows, self._pieces, self._places = graph.rows, graph.pieces, graph.places
        self._nobody = np.zeros((1, graph.kv_heads, 1, graph.head_size), np.float32)
        self._no_piece = Piece((), 0, 0, 0, Stages(0, 0, self.stages))
        self._nothing = [np.zeros((1, 1, graph.hidden), np.float32)] * max(map(len, graph.places), default=0)  # rests
        self._counting = np.empty(0, np.int64)
        self._flat = np.empty((1, 0, 2), np.int64)  # of each token of a run 0 and its position

    def hold(self, memory: SlotMemory) -> None:
        """Keys and values lie there."""
        self._slot_bytes, self._slot_shape = memory.slot_bytes, memory.shape
        at = [0, *accumulate(len(piece.past) for piece in self._pieces)]
        self._addresses = {self._rows.name: memory.addresses}
        self._addresses |= {piece.name: memory.addresses[begin:end] for piece, (begin, end) in zip(self._pieces, pairwise(at), strict=True)}

    def run(self, rows: Rows, piece: Piece | None, order: NDArray[np.int64], out: Logits) -> Hidden:
        """One run: the rows and, behind them, the piece. `out` gets the wanted logits, which are the rows' and then the piece's, in this order. Answers
        what rests of the piece, where it leaves before the end.

        The kernels can't do nothing: where a stage would have no token at all, one of nobody's goes before the piece, and an attention without a
        token of its own does the first of the run once more.
        """
        piece = piece or self._no_piece
        through, behind = piece.stages, len(piece.tokens)
        alone = not rows.tokens and (through.begin > 0 or not through.last)
        before = len(rows.tokens) + alone  # tokens that go through all stages
        self._count(before + behind + 1)
        ids, places = [*rows.tokens, *[0] * alone], [*(end - 1 for end in rows.ends), *[0] * alone]
        if not through.begin:
            ids += piece.tokens
            places += range(piece.end - behind, piece.end)
        wanted = np.array([*range(len(rows.tokens)), *range(before + behind - piece.wanted, before + behind)], np.int64)

        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("attention_mask", _SHORT)
        if self._positions:
            binding.bind_cpu_input("position_ids", np.array([places], np.int64))
        binding.bind_cpu_input(WANTED, self._flat[0, wanted[order]])
        binding.bind_output("logits", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        at = self._flat[:, : len(rows.tokens)].swapaxes(0, 1)
        self._attend(binding, self._rows, rows.first, at, np.array(rows.ends, np.int32))
        for stage, part in enumerate(self._pieces):
            inside = through.begin <= stage < through.end
            after = before + behind if inside else before
            if part.past:
                self._attend(binding, part, piece.slot, self._flat[:, before:after], np.array([piece.end] * inside, np.int32))
                answered = 0 if before else 1  # behind that of the rows, who are nobody
                binding.bind_cpu_input(part.kept, self._counting[None, answered : answered + after, None])
            if stage:
                binding.bind_cpu_input(coming(stage), self._flat[:, :after])
        left = self._exchange(binding, piece, before + behind)
        self._session.run_with_iobinding(binding)
        return [hidden[:, before:] for hidden in left]

    def _exchange(self, binding: Any, piece: Piece, tokens: int) -> Hidden:
        """Have the piece come in where it rested; answers where the run's `tokens` will be seen where it is to rest, if it is."""
        for which, hidden in enumerate([*piece.resting, *self._nothing[len(piece.resting) :]]):
            binding.bind_cpu_input(carried(which), hidden)
        if not 0 < piece.stages.end < self.stages:
            return []
        left: Hidden = []
        for name in self._places[piece.stages.end - 1]:
            left.append(np.empty((1, tokens, self._nothing[0].shape[2]), np.float32))
            binding.bind_output(name, "cpu", 0, np.float32, left[-1].shape, left[-1].ctypes.data)
        return left

    def _attend(self, binding: Any, part: Part, first: int, at: NDArray[np.int64], ends: NDArray[np.int32]) -> None:
        """What one part's attention reads and writes: `ends` are the tokens its rows have then, in the slots from `first` on, in place."""
        addresses = [address + first * self._slot_bytes for address in self._addresses[part.name]]
        shape: tuple[int, ...] = (len(ends), *self._slot_shape)
        if not len(ends):
            at, ends, shape, addresses = _FIRST, _LONE, self._nobody.shape, [self._nobody.ctypes.data] * len(addresses)
        binding.bind_cpu_input(part.at, at)
        binding.bind_cpu_input(part.last, ends - 1)
        binding.bind_cpu_input(part.longest, np.array(ends.max()))
        for address, past, present in zip(addresses, part.past, part.present, strict=True):
            binding.bind_input(past, "cpu", 0, np.float32, shape, address)
            binding.bind_output(present, "cpu", 0, np.float32, shape, address)

    def _count(self, tokens: int) -> None:
        """Have positions of at least so many."""
        if tokens > len(self._counting):
            self._counting = np.arange(2 * tokens, dtype=np.int64)
            self._flat = np.stack([np.zeros_like(self._counting), self._counting], axis=1)[None]
