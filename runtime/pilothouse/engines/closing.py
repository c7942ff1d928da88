"""Short ways to the end of a JSON text, so that a guided answer is whole when its tokens run out, and an end to numbers that have none.

A way is walked on a copy of the row's matcher, which knows what may come next; this file only prefers: the end before a bracket, a bracket
before a comma, `null` before an empty string, and inside a string the quote. It is short rather than the shortest, and depends on the text alone.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FIRST = {b"}": 1, b"]": 1, b",": 2, b":": 2, b"n": 3, b"t": 3, b"f": 3, b'"': 5, b"[": 6, b"{": 7, b"-": 8}
EMPTY = (b"[]", b"{}", b'""')
NUMERIC = frozenset(b"0123456789.eE+-")
LONGEST_NUMBER = 24  # characters, if its schema lets it end: all that a 64-bit number of either kind needs


@dataclass(frozen=True, slots=True)
class Place:
    """Where a text has got to: within a string, right after its backslash, or so many characters into a number."""

    inside: bool = False
    escaped: bool = False
    number: int = 0

    def after(self, text: bytes) -> "Place":
        inside, escaped, number = self.inside, self.escaped, self.number
        for byte in text:
            number = number + 1 if not inside and byte in NUMERIC else 0
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = inside
            elif byte == 0x22:
                inside = not inside
        return Place(inside, escaped, number)


class Closer:
    """Knows the bytes of every token, and which ones lead to an end."""

    def __init__(self, texts: Sequence[bytes], ends: Collection[int]) -> None:
        self.texts = texts
        self._ends = ends
        self._outside = _ranks([_outside(text) if i not in ends else (0, 0) for i, text in enumerate(texts)])
        self._inside = _ranks([_inside(text) for text in texts])
        self._numeric = np.array([text[:1] != b"" and text[0] in NUMERIC for text in texts])

    def shorten(self, allowed: NDArray[np.bool_], place: Place) -> NDArray[np.bool_]:
        """`allowed` without what makes a long number longer, where anything else is left."""
        if place.number < LONGEST_NUMBER:
            return allowed
        rest = allowed & ~self._numeric[: len(allowed)]
        return rest if rest.any() else allowed

    def way(self, matcher: Any, place: Place, most: int) -> list[int] | None:
        """At most `most` tokens that complete the text, the end token being the last; None where they are not enough. `matcher` is used up."""
        found: list[int] = []
        while len(found) < most:
            allowed = np.flatnonzero(bits(matcher))
            if matcher.is_error() or not len(allowed):
                return None
            ranks = self._inside if place.inside else self._outside
            token = int(allowed[ranks[allowed].argmin()])
            found.append(token)
            if token in self._ends:
                return found
            matcher.consume_token(token)
            place = place.after(self.texts[token])
        return None


def bits(matcher: Any) -> NDArray[np.bool_]:
    """Which tokens may come next, [vocabulary or a little more]."""
    return np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little").view(np.bool_)


def _ranks(keys: list[tuple[int, int]]) -> NDArray[np.int32]:
    """Each token's place in the order of `keys`, equal ones by id."""
    ranks = np.empty(len(keys), np.int32)
    ranks[sorted(range(len(keys)), key=keys.__getitem__)] = np.arange(len(keys), dtype=np.int32)
    return ranks


def _outside(text: bytes) -> tuple[int, int]:
    """Lower is nearer to the end, outside of strings."""
    first = 4 if text[:1].isdigit() else FIRST.get(text[:1], 9)
    if text in EMPTY or first == 3 or (first == 1 and set(text) <= set(b"}]")):
        return first, -len(text)
    return (9 if first == 1 else first), len(text)


def _inside(text: bytes) -> tuple[int, int]:
    """Lower is nearer to the end, within a string."""
    if text[:1] != b'"':
        return 2, len(text)
    return (0, -len(text)) if set(text[1:]) <= set(b"}]") else (1, len(text))
