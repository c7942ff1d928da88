"""The flat batch of one step of the paged engine, as its kernels want it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from pilothouse.engines.base import Stages, Work
from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.paged_rows import Row, Rows
from pilothouse.engines.paged_stages import CARRIED, LEAVING, OWN

PLAIN = ("input_ids", "position_ids", "wanted", "block_indices", "block_indices_begins")


class Batch:
    """Arrays that are bound once, then filled and cut to length for each step.

    The kernels compute the attention of a token that comes alone in another way than that of several, with other last bits. Who else is served
    decides how a prompt is cut and whether a draft is fed, and must not show in an answer: so every token of an answer is a sequence of its own,
    drafts too (the keys and values of a step are all written before any is read), and a prompt's tokens never come alone.

    Answers without a prompt beside them, and fewer than the kernels have threads, would go a third way. A sequence without tokens, the last of
    every batch, keeps them from it and costs nothing. More of them have the kernels make memory ahead (`_empty`).

    A piece that goes through some stages only comes behind all others: so where it does not go through there are fewer tokens, and its
    sequences have none.

    Most steps are the one before with each row a token longer (`_next`): what has been laid out stays then, but tokens and their places.
    """

    def __init__(self, compiled: Any, request: Any, *, tokens: int, rows: int, blocks: int, scratch: int) -> None:
        """Room for `rows` rows of `blocks` blocks and `tokens` tokens; `scratch` is the block of no row."""
        self.accompanied = True
        """Whether a token that is alone in its step needs another beside it: products of one row may have other last bits than those of several."""
        self._scratch = scratch
        self._counting = np.arange(max(rows * blocks * BLOCK, tokens) + 1, dtype=np.int32)
        self._laid_out = 0  # blocks that the kernels have memory for, to lay keys and values out in
        self._before: list[tuple[int, Row, int]] = []  # rows of the step before, with lengths, where it fed one token each
        self._reach = 0  # the longest row that the kernels are told of
        ports = {port.get_any_name(): port for port in compiled.inputs}
        self._ids, self._positions, self._wanted, self._blocks, self._block_begins = plain = [Feed() for _ in PLAIN]
        self._past, self._begins, self._coming = inside = [Feed() for _ in OWN]
        self._past_outside, self._begins_outside, self._coming_outside = outside = [
            Feed() for _ in OWN
        ]  # where the piece does not go through
        self._longest, self._leaving, self._nobody = Feed(()), Feed(), Feed()
        self._inputs = [(ports[name], feed) for name, feed in zip((*PLAIN, "max_context_len"), [*plain, self._longest], strict=True)]
        self._staged: list[tuple[int, int, Feed, Feed]] = []  # stage, place in the inputs, what it is fed
        self._exits: list[tuple[int, int]] = []
        for whole, port in ports.items():
            name, _, stage = whole.partition("/")
            if name in OWN:
                which = OWN.index(name)
                self._staged.append((int(stage or 0), len(self._inputs), inside[which], outside[which]))
                self._inputs.append((port, inside[which]))
            elif name == LEAVING:
                self._exits.append((int(stage), len(self._inputs)))
                self._inputs.append((port, self._nobody))
        self._bound: list[ov.Tensor | None] = [None] * len(self._inputs)
        self._request, self._carried_port = request, ports.get(CARRIED)
        self._piece: Stages | None = None
        if self._carried_port is not None:
            self.carry(np.empty((0, 1, self._carried_port.get_partial_shape()[2].get_length()), np.float32))
        self._room(tokens, rows * blocks)

    def carry(self, hidden: NDArray[np.float32]) -> None:
        """Have the next piece's rows come in as `hidden` [rows, 1, hidden], as they were when they were taken out."""
        self._carried = ov.Tensor(hidden, shared_memory=True)
        self._request.set_tensor(self._carried_port, self._carried)

    def _room(self, tokens: int, blocks: int) -> None:
        """At least so much, and for those who are nobody's."""
        for feed in (self._ids, self._positions, self._wanted, self._past, self._begins, self._block_begins):
            feed.grow(2 * tokens + 6)
        self._blocks.grow(blocks + 3)
        for feed in (self._coming, self._coming_outside):
            if feed.grow(tokens + 6):
                feed.array[:] = np.arange(len(feed.array))

    def fill(self, work: Sequence[Work], rows: Rows) -> int:
        """Lay `work`, whose tokens are in `rows` already, out for the kernels; answers how many logits are wanted.

        A token of a prompt that comes alone takes its neighbour along: the one before, with the same keys and values again, or where that is
        others', the one after, ahead of its turn. A companion to a whole step's only token, where it needs one, lies in a block of nobody's,
        and one wanted position is asked for twice.
        """
        if self._next(work, rows):
            return len(work)
        self._room(sum(max(2, len(item.tokens)) for item in work), 0)
        ids, positions, wants, past = self._ids.array, self._positions.array, self._wanted.array, self._past.array
        begins, block_begins = self._begins.array, self._block_begins.array
        at = blocks = wanted = longest = sequences = 0
        others = None
        for item in work:
            if item.stages is not None:
                at, blocks, sequences = others = self._accompany(at, blocks, sequences)
            row, state = item.row, rows[item.row]
            end = state.length
            begin = end - len(item.tokens)
            answer = min(max(begin, state.asked), end)
            ahead = 0
            if answer == begin + 1 and begin > state.given:
                begin -= 1
            elif answer == begin + 1 < state.asked:
                ahead, answer, end = 1, answer + 1, end + 1
            count, shift = end - begin, rows.shift(row)
            ids[at : at + count] = rows.tokens[row, begin:end]
            positions[at : at + count] = self._counting[begin:end] + shift
            for last in range(answer if answer > begin else begin + 1, end + 1):
                held = -(-last // BLOCK)
                self._blocks.grow(blocks + held + 3)
                self._blocks.array[blocks : blocks + held] = rows.tables[row, :held]
                past[sequences] = begin
                at, begin, blocks, sequences = at + last - begin, last, blocks + held, sequences + 1
                begins[sequences], block_begins[sequences] = at, blocks
            wants[wanted : wanted + item.wanted] = self._counting[at - ahead - item.wanted : at - ahead]
            wanted += item.wanted
            longest = max(longest, end)
        if others is None:
            at, blocks, sequences = self._accompany(at, blocks, sequences)
        for _ in range(self._empty(work, rows)):
            past[sequences] = 0
            sequences += 1
            begins[sequences], block_begins[sequences] = at, blocks
        self._part(work[-1].stages, others, at, sequences)
        if longest > self._reach:
            self._reach = 1 << (longest - 1).bit_length()  # the kernels are made anew with each 32 tokens that it grows by: 4 ms
            self._longest.array[()] = self._reach
        twice = wanted == 1 and self.accompanied
        if twice:
            wants[1] = wants[0]
        alike = at == len(work) == wanted and others is None  # a token each
        self._before = [(item.row, rows[item.row], rows[item.row].length) for item in work] if alike else []
        for feed, length in (
            (self._ids, at), (self._positions, at), (self._coming, at), (self._wanted, 2 if twice else wanted), (self._past, sequences),
            (self._begins, sequences + 1), (self._block_begins, sequences + 1), (self._blocks, blocks),
        ):  # fmt: skip
            feed.cut(length)
        for place, (port, feed) in enumerate(self._inputs):
            if self._bound[place] is not feed.tensor:
                self._bound[place] = feed.tensor
                self._request.set_tensor(port, feed.tensor)
        return wanted

    def _next(self, work: Sequence[Work], rows: Rows) -> bool:
        """Lay out a step that is the one before with each row a token longer, all in the blocks that they had; False where it is another one."""
        before = self._before
        if len(work) != len(before):
            return False
        for item, (row, state, length) in zip(work, before, strict=True):
            if item.row != row or rows[row] is not state or state.length != length + 1 or len(item.tokens) != 1 or item.wanted != 1:
                return False
            if length % BLOCK == 0 or length >= self._reach or item.stages is not None:
                return False
        ids, positions, past = self._ids.array, self._positions.array, self._past.array
        for place, item in enumerate(work):  # one by one: to set one of an array costs a hundredth of what any other call of numpy's does
            row, state, length = before[place]
            ids[place], past[place] = item.tokens[0], length
            positions[place] += 1
            before[place] = (row, state, length + 1)
        return True

    def _accompany(self, at: int, blocks: int, sequences: int) -> tuple[int, int, int]:
        """A companion to those who go through the whole graph, where they need one. Stages without any token are not asked of the kernels."""
        if at == 0 or (at == 1 and self.accompanied):
            self._ids.array[at] = self._positions.array[at] = self._past.array[sequences] = 0
            self._blocks.array[blocks] = self._scratch
            at, blocks, sequences = at + 1, blocks + 1, sequences + 1
            self._begins.array[sequences], self._block_begins.array[sequences] = at, blocks
        return at, blocks, sequences

    def _empty(self, work: Sequence[Work], rows: Rows) -> int:
        """How many sequences without tokens there are to be: one, or as many as double the memory in which the kernels lay out the keys before a
        piece of a prompt.

        They have room for just as many sequences of more or less than one token as there are, times the longest of them, and make it anew where it
        is too small: left to themselves with nearly each piece of a prompt that is the longest so far, which at 2048 tokens takes 30 ms.
        """
        lengths = [
            state.length for item, state in ((item, rows[item.row]) for item in work) if state.length - len(item.tokens) < state.asked
        ]
        longest = -(-max(lengths, default=0) // BLOCK)
        needed = (len(lengths) + 1) * longest
        if needed <= self._laid_out:
            return 1
        self._laid_out = 2 * needed
        return len(lengths) + 2

    def _part(self, piece: Stages | None, others: tuple[int, int, int] | None, tokens: int, sequences: int) -> None:
        """Have the piece come in, go on and leave: it comes behind the tokens, blocks and sequences of the `others`."""
        if piece is None and self._piece is None:
            return
        for stage, place, inside, outside in self._staged:
            self._inputs[place] = self._inputs[place][0], inside if piece is None or piece.begin <= stage < piece.end else outside
        for stage, place in self._exits:
            self._inputs[place] = self._inputs[place][0], self._leaving if piece is not None and piece.end == stage else self._nobody
        self._piece = piece
        if others is None:
            return
        whole, _, count = others
        for feed, source in ((self._past_outside, self._past), (self._begins_outside, self._begins)):
            feed.grow(sequences + 1)
            feed.array[: sequences + 1] = source.array[: sequences + 1]
        self._past_outside.array[count:sequences], self._begins_outside.array[count + 1 : sequences + 1] = 0, whole
        self._leaving.grow(tokens - whole)
        self._leaving.array[: tokens - whole] = self._counting[whole:tokens]
        for feed, length in (
            (self._past_outside, sequences), (self._begins_outside, sequences + 1), (self._coming_outside, whole), (self._leaving, tokens - whole)
        ):  # fmt: skip
            feed.cut(length)


class Feed:
    """An array that inputs of the graph are filled through, and how much of it counts."""

    def __init__(self, shape: tuple[int, ...] = (0,)) -> None:
        self._length = -1
        self._make(shape)

    def grow(self, length: int) -> bool:
        """Room for `length` entries, what is in it stays. True: it had to be made anew."""
        before = self.array
        if length <= len(before):
            return False
        self._make((2 * length,))
        self.array[: len(before)] = before
        return True

    def cut(self, length: int) -> None:
        """Only the first `length` entries count."""
        if length != self._length:
            self.tensor.set_shape([length])
            self._length = length

    def _make(self, shape: tuple[int, ...]) -> None:
        self.array = np.zeros(shape, np.int32)
        self.tensor = ov.Tensor(self.array, shared_memory=True)
        self._length = -1  # whatever it is cut to next is new
