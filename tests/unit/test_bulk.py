"""What a JSON parser may be given: values are counted before they are made."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.bulk import LARGE_BYTES, MOST_VALUES, NESTED, SMALL_BYTES, apart, demand_parsable
from pilothouse.errors import InvalidRequest
from pilothouse.protocols.fields import document

MIB = 1 << 20


def padded(body: bytes) -> bytes:
    """Of a size that is counted."""
    return body + b" " * (SMALL_BYTES + 1 - len(body))


@pytest.mark.parametrize(
    "piece",
    [b"[],", b"{},", b'{"a":1},', b"[" * 900 + b"]" * 900 + b",", b"1,", b"1.5,", b'"a",', b'"\\\\",', b'"\\"",'],
)
def test_four_mebibytes_of_values_are_refused_by_name(piece: bytes) -> None:
    """Whatever they are: brackets, members, numbers, short strings."""
    body = b'{"a":[' + piece * (4 * MIB // len(piece)) + b"0]}"
    with pytest.raises(InvalidRequest, match="more than 262144 JSON values") as refused:
        document(body)
    assert refused.value.code == "too_many_values"


@pytest.mark.parametrize("text", [b",[{:", b'\\",', b"\\\\,", b"\\u005b[", "é[".encode()])
def test_a_text_is_one_value_whatever_it_holds(text: bytes) -> None:
    """A prompt full of code is no list."""
    many = 3 * MIB // len(text)
    assert list(document(b'{"a":"' + text * many + b'"}')) == ["a"]


def test_the_bound_is_exact() -> None:
    """At the bound a document is read; one value more is refused. A list, an object and a member count eight."""
    room = MOST_VALUES - 3 * NESTED  # the object, its member, the list
    assert len(document(b'{"a":[' + b"1," * room + b"1]}")["a"]) == room + 1
    with pytest.raises(InvalidRequest):
        document(b'{"a":[' + b"1," * (room + 1) + b"1]}")


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_json_within_the_bound_is_never_refused(value: object) -> None:
    """Any document of usual size, padded to where values are counted."""
    import json

    demand_parsable(padded(json.dumps(value).encode()))


async def test_large_work_runs_beside_the_event_loop() -> None:
    """And small work on it, which is cheaper."""
    here = threading.get_ident()
    assert await apart(LARGE_BYTES, threading.get_ident) == here
    assert await apart(LARGE_BYTES + 1, threading.get_ident) != here
