"""Bodies that cost by their size: what would stop the event loop is refused before it is parsed, and the rest is read beside it.

A JSON parser holds the interpreter's lock until it is done, on whatever thread it runs, and 4 MiB of brackets cost it seconds. So the values of a
large document are counted first, by numpy, which lets go of the lock (0007 in docs/decisions has the figures).
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from pilothouse.errors import InvalidRequest

T = TypeVar("T")

SMALL_BYTES = 64 << 10  # up to here any document is parsed in milliseconds
LARGE_BYTES = 256 << 10  # from here on a body is read on a thread
MOST_VALUES = 1 << 18
NESTED = 8  # values that a list, an object or a member of one counts for: it costs the parser as much


async def apart(size: int, work: Callable[[], T]) -> T:
    """What `work` answers for a body of `size` bytes; on a thread where it would hold up the event loop."""
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


def demand_parsable(raw: bytes, what: str = "the body") -> None:
    """Raise `InvalidRequest` where the JSON in `raw` has more values than a parser may take the time for. Strings count as one, whatever they hold."""
    if len(raw) <= SMALL_BYTES:
        return
    characters = np.frombuffer(raw, np.uint8)
    if _values(characters) <= MOST_VALUES:
        return
    # Commas and brackets of the texts were counted, too: without escapes, every second quotation mark ends a string.
    characters = np.frombuffer(raw.replace(rb"\\", b"").replace(rb"\"", b""), np.uint8)
    outside = ~np.logical_xor.accumulate(characters == ord('"'))
    if _values(characters[outside]) > MOST_VALUES:
        raise InvalidRequest(
            f"{what} has more than {MOST_VALUES} JSON values (a list, an object or a member counts as {NESTED}); send fewer, or tensors as bytes",
            code="too_many_values",
        )


def _values(characters: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> int:
    """Commas, and `NESTED` for each colon and opening bracket."""
    plain = np.count_nonzero(characters == ord(","))
    nested = sum(int(np.count_nonzero(characters == ord(mark))) for mark in ":[{")
    return int(plain) + NESTED * nested
