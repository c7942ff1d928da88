"""The rows of the paged engine: their text, their blocks, and which rotary tables they are computed with.

Pure bookkeeping: the memory and the kernels are in `paged`. A row's tokens are kept because full blocks are found again by their text,
and because a row that outgrows the model's original window has to be computed anew with the long tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines import prefix
from pilothouse.engines.blocks import BLOCK, Blocks


@dataclass(slots=True)
class Row:
    prompt: int  # tokens that it was opened with
    asked: int  # of them those that it did not answer itself
    tenant: str
    long: bool  # computed with the long rotary tables
    chain: prefix.Chain
    given: int = 0  # tokens that others had computed
    length: int = 0  # tokens computed
    blocks: list[int] = field(default_factory=list)
    spare: list[int] = field(default_factory=list)  # instead of its shared blocks, once it starts over
    published: int = 0  # blocks that were offered to others
    last: int = 0  # tokens of the last step: only they can be rolled back


class Rows:
    """`tables[row]` [blocks] and `tokens[row]` [context] are what the kernels are fed from."""

    def __init__(
        self, *, rows: int, context: int, blocks: int, prefix_cache: bool = True, prefix_isolation: bool = True, original: int | None = None
    ) -> None:
        self.blocks = Blocks(blocks)
        self.tokens: NDArray[np.int64] = np.empty((rows, context), np.int64)
        self.tables: NDArray[np.int32] = np.empty((rows, -(-context // BLOCK)), np.int32)
        self._context = context
        self._prefix_cache = prefix_cache
        self._prefix_isolation = prefix_isolation
        self._original = original
        self._rows: dict[int, Row] = {}

    def __getitem__(self, row: int) -> Row:
        return self._rows[row]

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, row: int, prompt: Sequence[int], tenant: str, answered: int = 0) -> int | None:
        """Open `row` with blocks for the whole prompt. Returns how many tokens are there already; None, and nothing changed, without room."""
        if row in self._rows:
            raise ValueError(f"row {row} is open")
        if not 0 < len(prompt) <= self._context:
            raise ValueError(f"a prompt has 1 to {self._context} tokens, not {len(prompt)}")
        long = self._original is not None and len(prompt) > self._original
        state = Row(prompt=len(prompt), asked=len(prompt) - answered, tenant=tenant, long=long, chain=self._chain(tenant, long))
        text = self.tokens[row]
        text[: len(prompt)] = prompt
        found = prefix.find(self.blocks, state.chain, text[: len(prompt)]) if self._prefix_cache else []
        for block in found:
            self.blocks.hold(block)  # first, so that taking the rest can't evict them
        rest = self.blocks.take(-(-len(prompt) // BLOCK) - len(found))
        if rest is None:
            self._release(found)
            return None
        state.blocks = found + rest
        state.published = len(found)
        state.length = state.given = len(found) * BLOCK
        self.tables[row, : len(state.blocks)] = state.blocks
        self._rows[row] = state
        return state.length

    def _chain(self, tenant: str, long: bool) -> prefix.Chain:
        return prefix.Chain(f"{'long' if long else 'short'}:{tenant if self._prefix_isolation else ''}")

    def reserve(self, row: int, tokens: int) -> bool:
        """Make room for `tokens` more than are computed; False, and nothing changed, without room."""
        state = self._rows[row]
        end = state.length + tokens
        if end > self._context:
            return False
        missing = max(0, -(-end // BLOCK) - len(state.blocks))
        spare = 0
        if self._original is not None and self.turned(row, end):
            spare = max(0, sum(map(self.blocks.shared, state.blocks)) - len(state.spare))
        if missing + spare == 0:
            return True
        taken = self.blocks.take(missing + spare)
        if taken is None:
            return False
        state.spare += taken[missing:]
        self.tables[row, len(state.blocks) : len(state.blocks) + missing] = taken[:missing]
        state.blocks += taken[:missing]
        return True

    def settle(self, row: int) -> None:
        """A step begins: what was computed before it can't be rolled back any more, so others may have it."""
        state = self._rows[row]
        if state.length // BLOCK > state.published:
            self._publish(row, state.length)
        state.last = 0

    def append(self, row: int, tokens: Sequence[int]) -> None:
        """`tokens` are computed now. Called before the kernels run: the text is what they are fed from."""
        state = self._rows[row]
        end = state.length + len(tokens)
        if len(tokens) == 1:
            self.tokens[row, state.length] = tokens[0]  # an array made of a list costs five times that
        else:
            self.tokens[row, state.length : end] = tokens
        state.length = end
        state.last += len(tokens)

    def offer(self, row: int) -> None:
        """The last step's blocks of the prompt are computed: others may have them, since a prompt is never rolled back."""
        state = self._rows[row]
        computed = min(state.length, state.prompt)
        if computed // BLOCK > state.published:
            self._publish(row, computed)

    def _publish(self, row: int, length: int) -> None:
        state = self._rows[row]
        if not self._prefix_cache or length // BLOCK <= state.published:
            return
        for index, key in enumerate(state.chain.keys(self.tokens[row, :length])):
            if index >= state.published:
                self.blocks.publish(state.blocks[index], key)
        state.published = length // BLOCK

    def rollback(self, row: int, tokens: int) -> None:
        """Forget the last `tokens`, of the row's last step only: older blocks may be shared."""
        state = self._rows[row]
        if not 0 <= tokens <= state.last:
            raise ValueError(f"row {row} can go back by {state.last} tokens, not {tokens}")
        state.length -= tokens
        state.last -= tokens

    def shift(self, row: int) -> int:
        """What to add to the row's positions: the long tables stand after the short ones."""
        return (self._original or 0) if self._rows[row].long else 0

    def turned(self, row: int, end: int) -> bool:
        """Whether the row's tables are the wrong ones for a length of `end`, so that it must be computed anew."""
        state = self._rows[row]
        return self._original is not None and state.long != (max(end, state.prompt) > self._original)

    def turn(self, row: int) -> int:
        """Start the row over with the other tables, in blocks that nobody shares. Returns how many tokens to compute again."""
        state = self._rows[row]
        self._publish(row, state.length)
        self._release(state.blocks + state.spare)
        taken = self.blocks.take(len(state.blocks))
        if taken is None:
            raise RuntimeError(f"row {row} starts over without having reserved the room")
        state.blocks, state.spare = taken, []
        self.tables[row, : len(taken)] = taken
        again, state.length, state.published, state.given = state.length, 0, 0, 0
        state.long = not state.long
        state.chain = self._chain(state.tenant, state.long)
        return again

    def close(self, row: int) -> None:
        """Free the row; its full blocks stay findable until their memory is needed."""
        self._publish(row, self._rows[row].length)
        state = self._rows.pop(row)
        self._release(state.blocks + state.spare)

    def _release(self, blocks: list[int]) -> None:
        for block in reversed(blocks):  # the end of a text is evicted before its beginning
            self.blocks.release(block)
