"""Rows over shared blocks, against a memory that remembers what was written where: every row always reads its own text."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilothouse.engines.blocks import BLOCK
from pilothouse.engines.paged_rows import Rows

ROWS = 3
CONTEXT = 4 * BLOCK
POOL = 8  # blocks: not enough for all
ORIGINAL = 2 * BLOCK


class Memory(RuleBasedStateMachine):
    """Prompts are runs of few different blocks, so that they share beginnings; `written` stands for the keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = Rows(rows=ROWS, context=CONTEXT, blocks=POOL, original=ORIGINAL)
        self.written: dict[tuple[int, int], tuple[int, bool]] = {}  # (block, offset) -> token, and by which tables
        self.texts: dict[int, list[int]] = {}
        self.fresh: dict[int, int] = {}  # tokens that may be rolled back
        self.prompts: dict[int, int] = {}  # tokens
        self.offered: dict[bytes, list[tuple[int, bool]]] = {}  # key -> what its block held when it was offered

    def write(self, row: int, begin: int, end: int) -> None:
        """What the kernels do: store each token at its place, by the row's table."""
        for at in range(begin, end):
            block = int(self.rows.tables[row, at // BLOCK])
            self.written[block, at % BLOCK] = (int(self.rows.tokens[row, at]), self.rows.shift(row) > 0)

    @precondition(lambda self: len(self.texts) < ROWS)
    @rule(kinds=st.lists(st.integers(0, 1), max_size=3), tail=st.integers(1, BLOCK), tenant=st.sampled_from("ab"))
    def open(self, kinds: list[int], tail: int, tenant: str) -> None:
        """A prompt is opened and fed whole, from where others' blocks end."""
        row = next(i for i in range(ROWS) if i not in self.texts)
        prompt = [token for kind in kinds for token in [kind] * BLOCK] + [9] * tail
        used = self.rows.blocks.used
        cached = self.rows.open(row, prompt, tenant)
        if cached is None:
            assert self.rows.blocks.used == used
            return
        assert cached % BLOCK == 0
        assert cached < len(prompt)
        self.rows.settle(row)
        self.rows.append(row, prompt[cached:])
        self.write(row, cached, len(prompt))
        self.rows.offer(row)
        self.texts[row], self.fresh[row], self.prompts[row] = prompt, 0, len(prompt)

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), tokens=st.lists(st.integers(10, 12), min_size=1, max_size=4))
    def feed(self, data: st.DataObject, tokens: list[int]) -> None:
        """A row goes on, starting over when it leaves or enters the original window; without room nothing changes."""
        row = data.draw(st.sampled_from(sorted(self.texts)))
        before = list(self.rows[row].blocks)
        if not self.rows.reserve(row, len(tokens)):
            assert self.rows[row].blocks == before
            return
        self.rows.settle(row)
        length = len(self.texts[row])
        if self.rows.turned(row, length + len(tokens)):
            assert self.rows.turn(row) == length
            self.rows.append(row, self.texts[row])
            self.write(row, 0, length)
        self.rows.append(row, tokens)
        self.write(row, length, length + len(tokens))
        self.rows.offer(row)
        self.rows[row].last = len(tokens)
        self.texts[row] += tokens
        self.fresh[row] = len(tokens)
        assert (self.rows.shift(row) > 0) == (max(len(self.texts[row]), self.prompts[row]) > ORIGINAL)

    @precondition(lambda self: any(self.fresh.values()))
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        """The last step's tokens can be taken back."""
        row = data.draw(st.sampled_from(sorted(row for row, fresh in self.fresh.items() if fresh)))
        count = data.draw(st.integers(1, self.fresh[row]))
        self.rows.rollback(row, count)
        del self.texts[row][-count:]
        self.fresh[row] -= count

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        """A row leaves; the last one leaves nothing held."""
        row = data.draw(st.sampled_from(sorted(self.texts)))
        self.rows.close(row)
        del self.texts[row], self.fresh[row]
        if not self.texts:
            assert self.rows.blocks.used == 0

    @invariant()
    def every_row_reads_its_own_text(self) -> None:
        """Token by token, computed with the tables that the row's length asks for."""
        for row, text in self.texts.items():
            assert self.rows[row].length == len(text)
            read = [self.written[int(self.rows.tables[row, at // BLOCK]), at % BLOCK] for at in range(len(text))]
            assert [token for token, _ in read] == text
            assert {long for _, long in read} == {self.rows.shift(row) > 0}

    @invariant()
    def offered_blocks_never_change(self) -> None:
        """What others may find stays as it was when it was offered."""
        for block, key in self.rows.blocks._key_of.items():
            held = [self.written[block, offset] for offset in range(BLOCK)]
            assert self.offered.setdefault(key, held) == held

    @invariant()
    def counts(self) -> None:
        """Blocks in use are those of open rows, each counted once."""
        held = {block for row in self.texts for block in (*self.rows[row].blocks, *self.rows[row].spare)}
        assert self.rows.blocks.used == len(held)


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_rows_are_opened_and_closed_once() -> None:
    """A handle is in use or free, never twice in use."""
    rows = Rows(rows=1, context=CONTEXT, blocks=POOL)
    rows.open(0, [1], "")
    with pytest.raises(ValueError, match="row 0 is open"):
        rows.open(0, [1], "")
    assert (0 in rows, len(rows)) == (True, 1)
    rows.close(0)
    assert (0 in rows, len(rows)) == (False, 0)


def test_starting_over_without_reserved_room_is_a_bug() -> None:
    """Shared blocks can't be overwritten: a row that starts over must have reserved others."""
    rows = Rows(rows=2, context=CONTEXT, blocks=3, original=BLOCK + 8)
    for row in range(2):
        cached = rows.open(row, [5] * (BLOCK + 8), "") or 0
        rows.settle(row)
        rows.append(row, [5] * (BLOCK + 8 - cached))
        rows.offer(row)
    assert rows.blocks.available == 0
    assert rows.turned(0, BLOCK + 9)
    assert rows.reserve(0, 1) is False
    with pytest.raises(RuntimeError, match="without having reserved"):
        rows.turn(0)
