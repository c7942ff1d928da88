"""Tensors as raw bytes."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.protocols.v2_binary import NUMBERS, Wanted, pack, read, unpack, wanted, write

HI = b"\x02\x00\x00\x00Hi"


def body(*tensors: dict[str, Any], blob: bytes = b"", **more: Any) -> tuple[bytes, str]:
    header = json.dumps({"inputs": list(tensors)} | more).encode()
    return header + blob, str(len(header))


def tensor(size: Any, **more: Any) -> dict[str, Any]:
    return {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}} | more


def test_binary_tensors_are_put_into_data() -> None:
    """Bytes follow the header in the inputs' order; JSON tensors between them stay as they are."""
    raw, length = body(
        tensor(6), {"name": "j", "data": [1]}, tensor(8, shape=[2], datatype="FP32"), blob=HI + b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    )

    assert read(raw, length) == {
        "inputs": [
            {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {}, "data": [b"Hi"]},
            {"name": "j", "data": [1]},
            {"name": "prompt", "shape": [2], "datatype": "FP32", "parameters": {}, "data": [1.0, 2.0]},
        ]
    }


def test_a_body_without_the_header_is_json() -> None:
    """As every client that sends JSON alone."""
    assert read(b'{"inputs": [{"name": "a"}]}', None) == {"inputs": [{"name": "a"}]}
    assert read(b'{"inputs": 5}', None) == {"inputs": 5}
    assert read(b'{"text_input": "a"}', None) == {"text_input": "a"}


@pytest.mark.parametrize(
    ("raw", "length", "message"),
    [
        (b"{}", "3", "Inference-Header-Content-Length is 3, but the body has 2 bytes"),
        (b"{}", "-1", "Inference-Header-Content-Length must be a whole number of bytes, not '-1'"),
        (b"{}", "+2", "Inference-Header-Content-Length must be a whole number of bytes, not '+2'"),
        (b"{}", "", "Inference-Header-Content-Length must be a whole number of bytes, not ''"),
        (b"{}", "1_0", "Inference-Header-Content-Length must be a whole number of bytes, not '1_0'"),
        (b"{}", "²", "Inference-Header-Content-Length must be a whole number of bytes, not '²'"),
        (b"{}", "9" * 5000, f"Inference-Header-Content-Length must be a whole number of bytes, not '{'9' * 64}'..."),
        (b"{}", "1", "the body is not valid JSON (at line 1, column 2)"),
        (b"{}", "0", "the body is not valid JSON (at line 1, column 1)"),
        (b"{}x", "2", "1 bytes after the JSON header belong to no input"),
        (b"[]", "2", "the body must be a JSON object, not a list"),
        (*body(tensor(7), blob=HI), "inputs[0].parameters.binary_data_size is 7, but 6 bytes are left in the body"),
        (*body(tensor(6), tensor(1), blob=HI), "inputs[1].parameters.binary_data_size is 1, but 0 bytes are left in the body"),
        (*body(tensor(6), blob=HI + b"x"), "1 bytes after the JSON header belong to no input"),
        (*body(tensor(-1)), "inputs[0].parameters.binary_data_size must not be negative, not -1"),
        (*body(tensor("6"), blob=HI), "inputs[0].parameters.binary_data_size must be an integer, not a string"),
        (*body(tensor(6, data=["Hi"]), blob=HI), "inputs[0] has data and binary_data_size; send one of them"),
        (*body(tensor(6, shape=[2]), blob=HI), "inputs[0]: shape [2] is 2 elements, but its bytes hold 1"),
        (*body(tensor(0), blob=b""), "inputs[0]: shape [1] is 1 elements, but its bytes hold 0"),
        (*body(tensor(3), blob=HI[:3]), "inputs[0]: element 0 runs over the end of the tensor's 3 bytes"),
        (*body(tensor(5), blob=HI[:5]), "inputs[0]: element 0 runs over the end of the tensor's 5 bytes"),
        (*body(tensor(8), blob=HI + b"\xff\xff"), "inputs[0]: element 1 runs over the end of the tensor's 8 bytes"),
        (*body(tensor(6, shape=[-1]), blob=HI), "inputs[0].shape[0] must not be negative, not -1"),
        (*body(tensor(6, shape="1"), blob=HI), "inputs[0].shape must be a list, not a string"),
        (*body(tensor(6, datatype=None), blob=HI), "inputs[0].datatype is required"),
        (*body(tensor(6, datatype="INT32"), blob=HI), "inputs[0]: shape [1] of INT32 is 4 bytes, but 6 came"),
        (
            *body(tensor(6, shape=[10**18, 10**18], datatype="INT8"), blob=HI),
            f"inputs[0]: shape [{10**18}, {10**18}] of INT8 is {10**36} bytes, but 6 came",
        ),
    ],
)
def test_a_malformed_body_is_refused(refusal: Callable[..., Any], raw: bytes, length: str, message: str) -> None:
    """Lengths are judged against each other before a byte is believed."""
    assert refusal(read, raw, length)[:2] == (InvalidRequest, message)


def test_a_size_needs_the_header(refusal: Callable[..., Any]) -> None:
    """Without it nobody knows where the JSON ends."""
    assert refusal(read, body(tensor(6))[0], None) == (
        InvalidRequest,
        "inputs[0].parameters.binary_data_size needs the header Inference-Header-Content-Length",
        "inputs[0].parameters.binary_data_size",
    )


def test_an_unknown_datatype_is_refused(refusal: Callable[..., Any]) -> None:
    """BF16 has no reader here."""
    raw, length = body(tensor(6, datatype="BF16"), blob=HI)

    assert refusal(read, raw, length) == (Unsupported, "inputs[0].datatype 'BF16' is not read as bytes here", "inputs[0].datatype")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"parameters": {"binary_data_output": True}, "outputs": []}, True),
        ({"outputs": [{"name": "output", "parameters": {"binary_data": True}}]}, True),
        ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "output", "parameters": {"binary_data": False}}]}, False),
        ({"parameters": {"binary_data_output": True}, "outputs": [{"name": "output"}]}, True),
        ({"outputs": [{"name": "other", "parameters": {"binary_data": True}}]}, False),
    ],
)
def test_how_the_output_is_wanted(asked: dict[str, Any], expected: bool) -> None:
    """An output's own word wins over the request's."""
    assert wanted(asked).binary("output") is expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"parameters": {"binary_data_output": 1}}, "parameters.binary_data_output must be a boolean, not an integer"),
        (
            {"outputs": [{"name": "o", "parameters": {"binary_data": "yes"}}]},
            "outputs[0].parameters.binary_data must be a boolean, not a string",
        ),
        ({"outputs": [{"parameters": {"binary_data": True}}]}, "outputs[0].name is required"),
        ({"outputs": [5]}, "outputs[0] must be an object, not an integer"),
    ],
)
def test_a_wrong_wish_is_refused(refusal: Callable[..., Any], asked: dict[str, Any], message: str) -> None:
    """By field, as everything else."""
    assert refusal(wanted, asked)[:2] == (InvalidRequest, message)


def test_a_response_with_bytes_after_it() -> None:
    """The JSON says how many bytes each output has; its other parameters stay."""
    response = {
        "model_name": "m",
        "outputs": [
            {"name": "output", "shape": [2], "datatype": "BYTES", "data": [b"Hi", "é"], "parameters": {"content_type": "str"}},
            {"name": "other", "shape": [1], "datatype": "FP32", "data": [1.0]},
        ],
    }
    raw, length = write(response, Wanted(outputs={"output": True}))

    assert length is not None
    assert json.loads(raw[:length]) == {
        "model_name": "m",
        "outputs": [
            {"name": "output", "shape": [2], "datatype": "BYTES", "parameters": {"content_type": "str", "binary_data_size": 12}},
            {"name": "other", "shape": [1], "datatype": "FP32", "data": [1.0]},
        ],
    }
    assert raw[length:] == HI + b"\x02\x00\x00\x00\xc3\xa9"


def test_a_response_in_json_alone() -> None:
    """BYTES are text there."""
    response = {"outputs": [{"name": "output", "shape": [1], "datatype": "BYTES", "data": ["é".encode()]}]}

    assert write(response, Wanted()) == ('{"outputs":[{"name":"output","shape":[1],"datatype":"BYTES","data":["é"]}]}'.encode(), None)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_come_back_as_they_went(rows: list[bytes]) -> None:
    """Any bytes, empty ones too."""
    assert unpack(pack(rows, "BYTES"), "BYTES", [len(rows)], "t") == rows


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.integers(0, 1), max_size=8), datatype=st.sampled_from(sorted(NUMBERS)))
def test_numbers_come_back_as_they_went(rows: list[int], datatype: str) -> None:
    """Every datatype of the protocol."""
    raw = pack(rows, datatype)

    assert len(raw) == len(rows) * NUMBERS[datatype].itemsize
    assert unpack(raw, datatype, [len(rows)], "t") == [np.dtype(NUMBERS[datatype]).type(row).item() for row in rows]


@settings(max_examples=200, deadline=None)
@given(
    raw=st.binary(max_size=60) | st.builds(lambda blob: body(tensor(len(blob)), blob=blob)[0], st.binary(max_size=20)),
    length=st.none() | st.integers(0, 90).map(str) | st.text(max_size=3),
)
def test_any_body_is_read_or_refused(raw: bytes, length: str | None) -> None:
    """Never another exception, which would be a 500."""
    try:
        found = read(raw, length)
    except InvalidRequest:
        return

    assert isinstance(found, dict)
