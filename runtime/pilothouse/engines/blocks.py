"""The pool of KV blocks: who holds which, and which finished ones are kept in case their text comes again.

Pure bookkeeping over block numbers, so that it can be tested against a naive model; the memory itself belongs to the engine.
"""

from collections import OrderedDict

BLOCK = 32  # tokens; the paged kernels' own size


class Blocks:
    """A block is free, held by one or more rows, or kept: held by nobody, findable by key, evicted least recently used first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count))[::-1]  # a stack: memory that was touched before is used first
        self._holders = [0] * count
        self._key_of: dict[int, bytes] = {}
        self._by_key: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # held by nobody, oldest first

    def __repr__(self) -> str:
        return f"Blocks(count={self.count}, used={self.used}, kept={len(self._kept)})"

    @property
    def available(self) -> int:
        """How many could be taken now, evicting what is only kept."""
        return len(self._free) + len(self._kept)

    @property
    def used(self) -> int:
        """How many are held by rows."""
        return self.count - self.available

    def take(self, count: int) -> list[int] | None:
        """`count` blocks held once each, their old content void; None, and nothing changed, if there are not so many."""
        if count > self.available:
            return None
        taken = []
        for _ in range(count):
            block = self._free.pop() if self._free else self._evict()
            self._holders[block] = 1
            taken.append(block)
        return taken

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._by_key[self._key_of.pop(block)]
        return block

    def hold(self, block: int) -> None:
        """One holder more, of a block that is held or kept."""
        if self._holders[block] == 0:
            del self._kept[block]
        self._holders[block] += 1

    def release(self, block: int) -> None:
        """One holder less; the last one leaves the block kept if it has a key, free otherwise."""
        if self._holders[block] == 0:
            raise ValueError(f"block {block} is held by nobody")
        self._holders[block] -= 1
        if self._holders[block] == 0:
            if block in self._key_of:
                self._kept[block] = None
            else:
                self._free.append(block)

    def publish(self, block: int, key: bytes) -> bool:
        """Let a held block be found by `key`. False if another block already is (this one then stays private)."""
        if self._holders[block] == 0:
            raise ValueError(f"block {block} is held by nobody")
        if key in self._by_key or block in self._key_of:
            return False
        self._by_key[key] = block
        self._key_of[block] = key
        return True

    def shared(self, block: int) -> bool:
        """Whether more than one row holds `block`."""
        return self._holders[block] > 1

    def find(self, key: bytes) -> int | None:
        """The block published under `key`, if it is still there."""
        return self._by_key.get(key)
