"""Prefixes by a hash chain of full blocks: a block's key stands for its tokens and everything before them.

The digest is cryptographic because a collision would answer one tenant with another's text; the salt separates tenants and whatever
else makes the same tokens compute to different keys and values.
"""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from pilothouse.engines.blocks import BLOCK, Blocks

Tokens = NDArray[np.int64]


class Chain:
    """The keys of one text's full blocks, as it grows."""

    def __init__(self, salt: str) -> None:
        self._salt = blake2b(salt.encode(), digest_size=16).digest()
        self._keys: list[bytes] = []

    def keys(self, tokens: Tokens) -> Iterator[bytes]:
        """The key of each full block of `tokens`, which must begin with what was asked for before."""
        for index in range(len(tokens) // BLOCK):
            if index == len(self._keys):
                parent = self._keys[-1] if self._keys else self._salt
                block = np.ascontiguousarray(tokens[index * BLOCK : (index + 1) * BLOCK], np.int64)
                self._keys.append(blake2b(parent + block.tobytes(), digest_size=16).digest())
            yield self._keys[index]


def find(blocks: Blocks, chain: Chain, tokens: Tokens) -> list[int]:
    """The longest known run of full blocks that `tokens` begin with, leaving at least one token to compute. Held by nobody yet."""
    found = []
    for key in chain.keys(tokens[: len(tokens) - 1]):
        block = blocks.find(key)
        if block is None:
            break
        found.append(block)
    return found
