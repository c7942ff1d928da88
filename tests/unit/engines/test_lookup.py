"""Drafts by prompt lookup."""

from collections.abc import Sequence
from itertools import pairwise
from typing import overload

from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines.lookup import LENGTHS, LONGEST_REST, MOST, REST, Lookup


def test_what_followed_the_last_three_tokens_is_the_draft() -> None:
    """The draft is what stood after the same n-gram before."""
    assert Lookup([1, 2, 3, 4, 5, 9, 1, 2, 3]).draft(2) == (4, 5)


def test_two_tokens_are_enough_where_three_never_came() -> None:
    """Shorter n-grams are a second choice."""
    assert Lookup([7, 1, 2, 5, 6, 8, 1, 2]).draft(2) == (5, 6)


def test_the_latest_place_wins() -> None:
    """Of several places the last one tells."""
    assert Lookup([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]).draft(1) == (5,)


def test_a_text_that_repeats_itself_goes_on_repeating() -> None:
    """A draft may be longer than what follows the place: it goes round."""
    lookup = Lookup([1, 2, 1, 2, 1, 2])
    for _ in range(3):
        lookup.account(2, 2)

    assert lookup.draft(5) == (1, 2, 1, 2, 1)


def test_new_text_has_no_draft() -> None:
    """Where nothing was seen before, nothing is guessed; nor where nothing is wanted."""
    assert Lookup([1, 2, 3, 4, 5]).draft(4) == ()
    assert Lookup([1]).draft(4) == ()
    assert Lookup([1, 1, 1, 1]).draft(0) == ()


def test_a_draft_grows_while_it_is_right_and_shrinks_when_it_is_wrong() -> None:
    """Right to the end: twice as long next time. Wrong: as long as it was right."""
    lookup, lengths = Lookup([1] * 40), []
    for accepted in (2, 4, 8, 8, 3, 0, 1):
        lengths.append(len(lookup.draft(MOST)))
        lookup.account(lengths[-1], accepted)

    assert lengths == [2, 4, 8, 8, 8, 3, 1]


def test_a_row_whose_drafts_do_not_pay_rests_for_longer_each_time() -> None:
    """With every draft wrong, a row of a thousand tokens is bothered a few times only."""
    tokens = [1] * 10
    lookup, tried = Lookup(tokens), []
    for _ in range(1_000):
        offered = len(lookup.draft(4))
        if offered:
            tried.append(len(tokens))
        lookup.account(offered, 0)
        tokens.append(1)
    rests = [after - before for before, after in pairwise(tried) if after - before > 1]

    assert rests[:5] == [REST, 2 * REST, 4 * REST, 8 * REST, LONGEST_REST]
    assert len(tried) < 20


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, MOST))
def test_a_draft_is_what_a_search_of_the_whole_row_finds(tokens: list[int], most: int) -> None:
    """The growing index finds the same as searching everything anew."""
    row: list[int] = []
    lookup = Lookup(row)
    for token in tokens:
        row.append(token)
        assert lookup.draft(min(most, 2)) == searched(row, min(most, 2))


def searched(row: list[int], most: int) -> tuple[int, ...]:
    for length in LENGTHS:
        for place in range(len(row) - 1, length - 1, -1):
            if row[place - length : place] == row[-length:]:
                period, long = len(row) - place, row[place:]
                return tuple((long + long[:1] * period)[:most] if period == 1 else long[:most])
    return ()


class Counted(Sequence[int]):
    """A row that counts how many of its tokens are read."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens
        self.read = 0

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        taken = self.tokens[place]
        self.read += len(taken) if isinstance(taken, list) else 1
        return taken

    def __len__(self) -> int:
        return len(self.tokens)


def test_a_token_costs_the_same_late_in_a_row_as_early() -> None:
    """A step reads the new token's n-grams, never the row."""
    row = Counted([1, 2, 3])
    lookup, reads = Lookup(row), []
    for place in range(500):
        row.tokens.append(place % 7)
        before = row.read
        lookup.draft(4)
        reads.append(row.read - before)

    assert max(reads[1:]) <= 2 * sum(LENGTHS) + 4
