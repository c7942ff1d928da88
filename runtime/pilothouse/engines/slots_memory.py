"""The slots' keys and values: one buffer [slots, heads, tokens, size] for each layer's keys and one for its values.

The kernels want a batch to be neighbouring slots of such a buffer, each as long as the context. Anonymous mappings make that affordable:
only tokens that were computed take memory, and a slot that is let go gives it back.
"""

import math
import mmap
from itertools import chain

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pilothouse.engines.blocks import BLOCK, Blocks
from pilothouse.engines.large_pages import zeroed
from pilothouse.engines.prefix import Chain, Tokens

Array = NDArray[np.float32]


class SlotMemory:
    """`buffers` are in the order key, value of each layer; `shape` is one slot's: heads, tokens (at least the context), size."""

    def __init__(self, *, slots: int, buffers: int, heads: int, context: int, size: int) -> None:
        token = heads * size * np.float32().itemsize
        step = mmap.PAGESIZE // math.gcd(token, mmap.PAGESIZE)
        length = -(-context // step) * step  # so that every slot begins on a page and can be given back alone
        self.shape = (heads, length, size)
        self.slot_bytes = token * length
        self.token_bytes = token * buffers
        self._maps = [mmap.mmap(-1, slots * self.slot_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(buffers)]
        self.buffers: list[Array] = [np.frombuffer(memory, np.float32).reshape(slots, *self.shape) for memory in self._maps]
        self.addresses = [buffer.ctypes.data for buffer in self.buffers]

    def move(self, source: int, target: int, tokens: int, back: int) -> None:
        """Copy `tokens` of `source` into `target`, and `back` of `target`'s into `source`."""
        for buffer in self.buffers:
            kept = buffer[target, :, :back].copy()
            buffer[target, :, :tokens] = buffer[source, :, :tokens]
            buffer[source, :, :back] = kept

    def free(self, slot: int) -> None:
        """Give the slot's memory back."""
        for memory in self._maps:
            memory.madvise(mmap.MADV_DONTNEED, slot * self.slot_bytes, self.slot_bytes)


class PrefixStore:
    """Full blocks of computed texts, copied out of slots and into them: some hundred times cheaper than computing them."""

    def __init__(self, memory: SlotMemory, available: int) -> None:
        self._memory = memory
        self.blocks = Blocks(available // (memory.token_bytes * BLOCK))
        heads, _, size = memory.shape
        shape = (len(memory.buffers), self.blocks.count, heads, BLOCK, size)
        count = math.prod(shape)
        self._arrays: Array = np.frombuffer(zeroed(4 * count), np.float32, count).reshape(shape)

    def load(self, found: list[int], slot: int) -> None:
        """Copy blocks that were found into the beginning of a slot."""
        if not found:
            return
        for array, buffer in zip(self._arrays, self._memory.buffers, strict=True):
            view = self._view(buffer, slot, len(found))
            for index, block in enumerate(found):  # one by one: each is some long runs of memory, together they are short ones
                view[:, index] = array[block]
        self._touch(found)

    def save(self, slot: int, text: Tokens, keys: Chain, begin: int) -> None:
        """Copy the full blocks of `text`, computed in `slot`, that are not known yet; those before the `begin`th are not looked at."""
        known, new = [], []
        for index, key in enumerate(keys.keys(text)):
            block = self.blocks.find(key)
            if block is not None:
                known.append(block)
            elif index >= begin:
                new.append((index, key))
        for block in known:
            self.blocks.hold(block)  # the beginning must not make room for the end
        new = new[: self.blocks.available]
        taken = self.blocks.take(len(new)) or []
        if taken:
            places = [index for index, _ in new]
            for array, buffer in zip(self._arrays, self._memory.buffers, strict=True):
                view = self._view(buffer, slot, places[-1] + 1)
                for block, index in zip(taken, places, strict=True):
                    array[block] = view[:, index]
            for block, (_, key) in zip(taken, new, strict=True):
                self.blocks.publish(block, key)
        for block in chain(reversed(taken), reversed(known)):
            self.blocks.release(block)

    def _touch(self, blocks: list[int]) -> None:
        for block in blocks:
            self.blocks.hold(block)
        for block in reversed(blocks):
            self.blocks.release(block)

    def _view(self, buffer: Array, slot: int, blocks: int) -> Array:
        """The first blocks of a slot, [heads, blocks, 32, size], without a copy."""
        heads, _, size = self._memory.shape
        _, head, token, number = buffer.strides
        return as_strided(buffer[slot], (heads, blocks, BLOCK, size), (head, BLOCK * token, token, number))
