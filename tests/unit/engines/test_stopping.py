"""Stop strings over streamed text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.engines.stopping import StopScanner

STRINGS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def run(strings: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    """What is shown after each piece, and at the end."""
    scanner = StopScanner(strings)
    shown = [scanner.feed(piece)[0] for piece in pieces]
    return [*shown, scanner.finish()], scanner.stopped


def cut(strings: list[str], text: str) -> tuple[str, bool]:
    """The oracle: letter by letter, until the text ends with a stop string; then before the longest that it ends with."""
    for end in range(1, len(text) + 1):
        hits = [s for s in strings if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


@settings(deadline=None)
@given(STRINGS, st.lists(st.text("abc", max_size=6), max_size=8))
def test_joined_pieces_are_the_whole_text_cut_at_its_first_stop_string(strings: list[str], pieces: list[str]) -> None:
    """However the text is cut into pieces, what is shown is what one piece would show."""
    shown, stopped = run(strings, pieces)

    assert cut(strings, "".join(pieces)) == ("".join(shown), stopped)


@settings(deadline=None)
@given(STRINGS, st.text("abc", max_size=20))
def test_nothing_is_shown_that_may_begin_a_stop_string(strings: list[str], text: str) -> None:
    """After every letter the text shown is the longest that no continuation can take back."""
    scanner, shown = StopScanner(strings), ""
    for place, letter in enumerate(text, 1):
        safe, hit = scanner.feed(letter)
        shown += safe
        if hit:
            break
        read = text[:place]
        assert len(read) - max((n for s in strings for n in range(len(s)) if read.endswith(s[:n])), default=0) == len(shown)


@pytest.mark.parametrize(
    ("strings", "pieces", "expected"),
    [
        ([], ["a", "b"], ["a", "b", ""]),
        (["###"], ["one #", "#", " two"], ["one ", "", "## two", ""]),
        (["###"], ["one ##", "# two"], ["one ", "", ""]),
        (["User:"], ["ok.\nUs", "e", "ful"], ["ok.\n", "", "Useful", ""]),
        (["."], ["End. More"], ["End", ""]),
        (["abcd", "bc"], ["ab", "c"], ["", "a", ""]),
        (["aab"], ["aaa", "b"], ["a", "", ""]),
        (["é"], ["caf", "é!"], ["caf", "", ""]),
    ],
)
def test_held_text_is_released_when_it_can_not_be_a_stop_string_any_more(
    strings: list[str], pieces: list[str], expected: list[str]
) -> None:
    """Held text comes with the piece that clears it; a stop string and all after it never comes."""
    assert expected == run(strings, pieces)[0]


def test_after_a_hit_nothing_is_shown() -> None:
    """Text fed after the stop string is swallowed."""
    scanner = StopScanner(["x"])

    assert scanner.feed("ax") == ("a", True)
    assert scanner.feed("b") == ("", True)
    assert scanner.finish() == ""


def test_an_empty_stop_string_stops_nothing() -> None:
    """Everything begins with an empty string; it is left out."""
    assert run([""], ["a", "b"]) == (["a", "b", ""], False)


def test_the_work_does_not_grow_with_what_is_held() -> None:
    """A long stop string that almost matches for ever costs the same for each letter (it would be minutes if held text was searched anew)."""
    scanner = StopScanner(["a" * 20_000 + "b"])
    shown = "".join(scanner.feed("a" * 10)[0] for _ in range(4_000))

    assert len(shown) == 20_000
    assert scanner.feed("b") == ("", True)
