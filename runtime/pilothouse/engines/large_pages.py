"""Zeroed memory that is taken when it is written, on pages of 2 MiB where the system gives them.

To write to small pages first takes ten times as long as copying, and attention that reads keys and values from them a few percent longer.
"""

import mmap
from contextlib import suppress

LARGE_PAGE = 2 << 20  # bytes; a mapping of a whole number of them begins with one


def zeroed(size: int) -> mmap.mmap:
    """An anonymous mapping of `size` bytes or a little more."""
    memory = mmap.mmap(-1, max(1, -(-size // LARGE_PAGE)) * LARGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # not on Linux, or without such pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
