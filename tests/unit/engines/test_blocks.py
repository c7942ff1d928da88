"""The block pool against a naive model that lists who holds what."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilothouse.engines.blocks import Blocks

COUNT = 6


class Naive(RuleBasedStateMachine):
    """Holders as a list of lists, kept blocks as a list in the order they were let go."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = Blocks(COUNT)
        self.held: list[int] = []  # a block once for each holder
        self.kept: list[int] = []  # oldest first
        self.keys: dict[int, bytes] = {}  # of published blocks
        self.next = 0

    @rule(count=st.integers(0, COUNT + 1))
    def take(self, count: int) -> None:
        """Free blocks come first, then kept ones from the oldest; never a held one, and all or none."""
        free = set(range(COUNT)) - set(self.held) - set(self.kept)
        taken = self.blocks.take(count)

        if count > len(free) + len(self.kept):
            assert taken is None
            return
        assert taken is not None
        evicted = self.kept[: max(0, count - len(free))]
        assert len(taken) == len(set(taken)) == count
        assert set(taken) <= free | set(evicted)
        for block in evicted:
            self.kept.remove(block)
            del self.keys[block]
        self.held += taken

    @precondition(lambda self: self.held or self.kept)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        """A held or kept block gets one holder more."""
        block = data.draw(st.sampled_from(sorted(set(self.held) | set(self.kept))))
        self.blocks.hold(block)

        if block in self.kept:
            self.kept.remove(block)
        self.held.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """The last holder's release keeps a published block and frees another."""
        block = data.draw(st.sampled_from(self.held))
        self.blocks.release(block)

        self.held.remove(block)
        if block not in self.held and block in self.keys:
            self.kept.append(block)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), same=st.booleans())
    def publish(self, data: st.DataObject, same: bool) -> None:
        """A key finds one block, a block has one key: the first of each stays."""
        block = data.draw(st.sampled_from(self.held))
        key = data.draw(st.sampled_from(sorted(self.keys.values()))) if same and self.keys else str(self.next).encode()
        self.next += 1
        published = self.blocks.publish(block, key)

        assert published == (key not in self.keys.values() and block not in self.keys)
        if published:
            self.keys[block] = key

    @invariant()
    def counts(self) -> None:
        """What is held is used, all else is available."""
        assert self.blocks.used == len(set(self.held))
        assert self.blocks.available == COUNT - len(set(self.held))

    @invariant()
    def sharing(self) -> None:
        """A block is shared when more than one holds it."""
        assert [b for b in range(COUNT) if self.blocks.shared(b)] == [b for b in range(COUNT) if self.held.count(b) > 1]

    @invariant()
    def finding(self) -> None:
        """Every published block is found, held or kept, until it is evicted."""
        assert {key: self.blocks.find(key) for key in self.keys.values()} == {key: block for block, key in self.keys.items()}


TestBlocks = Naive.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_block_that_nobody_holds_cannot_be_released_or_published() -> None:
    """Losing count of holders is a bug, never a silent double free."""
    blocks = Blocks(2)
    with pytest.raises(ValueError, match="held by nobody"):
        blocks.release(0)
    with pytest.raises(ValueError, match="held by nobody"):
        blocks.publish(0, b"key")


def test_the_pool_says_what_it_holds() -> None:
    """The repr shows the numbers that the gauge is made of."""
    blocks = Blocks(4)
    taken = blocks.take(2)
    assert taken is not None
    blocks.publish(taken[0], b"key")
    blocks.release(taken[0])

    assert repr(blocks) == "Blocks(count=4, used=1, kept=1)"
