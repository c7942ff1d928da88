"""Reading one JSON object, strictly."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from pilothouse.errors import InvalidRequest, PilothouseError, Unsupported
from pilothouse.protocols.fields import Fields, document, shown


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the body is not valid JSON (at line 1, column 1)"),
        (b"{", "the body is not valid JSON (at line 1, column 2)"),
        (b'{"a": NaN}', "the body is not valid JSON (at line 1, column 7)"),
        (b'{"a": 1e999}', "the body is not valid JSON (at line 1, column 7)"),
        (b'{"a": "\xff"}', "the body is not valid UTF-8 (at byte 7)"),
        (b"[1]", "the body must be a JSON object, not a list"),
        (b'"text"', "the body must be a JSON object, not a string"),
        (b"null", "the body must be a JSON object, not null"),
        (b"1.5", "the body must be a JSON object, not a number"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(raw: bytes, message: str) -> None:
    """The error says where the JSON breaks or what stands in the object's place, never the parser's own words."""
    with pytest.raises(InvalidRequest) as caught:
        document(raw)

    assert caught.value.message == message


def test_a_body_nested_for_ever_is_refused() -> None:
    """Depth is bounded by the parser, before anything recursive sees the body."""
    with pytest.raises(InvalidRequest) as caught:
        document(b'{"a":' * 5000 + b"1" + b"}" * 5000)

    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (Fields.text, 1, "x must be a string, not an integer"),
        (Fields.text, True, "x must be a string, not a boolean"),
        (Fields.text, ["a"], "x must be a string, not a list"),
        (Fields.integer, "1", "x must be an integer, not a string"),
        (Fields.integer, 1.0, "x must be an integer, not a number"),
        (Fields.integer, True, "x must be an integer, not a boolean"),
        (Fields.number, "0.5", "x must be a number, not a string"),
        (Fields.number, False, "x must be a number, not a boolean"),
        (Fields.number, math.nan, "x must be a finite number"),
        (Fields.number, 10**400, "x must be a finite number"),
        (Fields.boolean, 0, "x must be a boolean, not an integer"),
        (Fields.items, {}, "x must be a list, not an object"),
        (Fields.object, [], "x must be an object, not a list"),
        (Fields.text, "\ud800", "x is not valid Unicode: it has half of a surrogate pair"),
        (Fields.need_text, None, "x is required"),
        (Fields.need_items, None, "x is required"),
        (Fields.need_object, None, "x is required"),
        (Fields.need_identifier, "a b", "x must be 1 to 64 letters, digits, _ and -, not 'a b'"),
    ],
)
def test_a_wrong_type_names_the_field_and_both_types(read: Callable[[Fields, str], Any], value: Any, message: str) -> None:
    """Nothing is coerced: what is sent must be what is meant."""
    with pytest.raises(InvalidRequest) as caught:
        read(Fields({"x": value}), "x")

    assert (caught.value.message, caught.value.field) == (message, "x")


@pytest.mark.parametrize("read", [Fields.text, Fields.integer, Fields.number, Fields.boolean, Fields.object])
def test_absent_and_null_read_alike(read: Callable[[Fields, str], Any]) -> None:
    """Clients send null for "not set"."""
    assert (read(Fields({}), "x"), read(Fields({"x": None}), "x")) == (None, None)


def test_readers_are_given_what_is_there_with_its_full_name() -> None:
    """Null is read, and asks for nothing; what no reader is named for is left."""
    fields = Fields({"a": 1, "b": None, "c": 3}, "params")

    found = fields.read({name: lambda value, path: (value, path) for name in ("a", "b", "d")})

    assert (found, fields.left()) == ({"a": (1, "params.a")}, {"c": 3})
    assert (fields.lacks("a", "b", "d"), fields.lacks("d", "c")) == (True, False)


def test_a_field_within_an_object_is_named_with_its_path() -> None:
    """The client finds the place without counting."""
    inner = Fields({"a": {"b": 1}}).need_object("a")

    with pytest.raises(InvalidRequest) as caught:
        inner.text("b")

    assert caught.value.field == "a.b"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("surprise", "surprise is not a known field"),
        ("max_length", "max_length is not a known field: send max_tokens"),
        ("x" * 70, f"'{'x' * 64}'... is not a known field"),
        ("\ud800", "'\\ud800' is not a known field"),
        ("a\nb", "'a\\nb' is not a known field"),
    ],
)
def test_what_nobody_took_is_refused_by_name(name: str, message: str) -> None:
    """An unknown field is never dropped in silence; its name is repeated short and printable."""
    with pytest.raises(InvalidRequest) as caught:
        Fields({name: 1}).finish(hints={"max_length": "send max_tokens"})

    assert (caught.value.message, caught.value.code) == (message, "unknown_parameter")


def test_ignored_fields_may_stay_unread() -> None:
    """What is documented as ignored is no error, whatever its type."""
    Fields({"store": object()}).finish(ignored=("store",))


def test_a_known_field_that_cannot_be_honoured_is_refused_unless_null() -> None:
    """Refusing says why; null asks for nothing."""
    Fields({"audio": None}).refuse({"audio": "text only"})

    with pytest.raises(Unsupported) as caught:
        Fields({"audio": {}}).refuse({"audio": "text only"})

    assert (caught.value.message, caught.value.field) == ("audio is not supported: text only", "audio")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("x" * 65, f"'{'x' * 64}'..."),
        (True, "true"),
        (None, "null"),
        (1.5, "1.5"),
        (10**400, "an integer beyond 64 bits"),
        ([1], "a list"),
        ({}, "an object"),
        (b"", "a string"),
        (object(), "another type"),
    ],
)
def test_a_clients_value_is_repeated_short(value: Any, text: str) -> None:
    """Errors never grow with the body."""
    assert shown(value) == text


def test_an_error_about_broken_unicode_can_be_sent() -> None:
    """The error's own text is valid Unicode, or the answer could not be written."""
    with pytest.raises(PilothouseError) as caught:
        Fields(json.loads('{"x": "\\ud800"}')).choice("x", "a")

    assert caught.value.message.encode()
