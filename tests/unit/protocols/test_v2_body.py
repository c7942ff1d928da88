"""JSON bodies of V2, and Triton's generate bodies."""

from collections.abc import Callable
from typing import Any

import pytest

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import ChatRequest, Chunk, FinishReason, Usage
from pilothouse.protocols import v2
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.v2_body import generate_answer, generate_request, inference_request

TENSOR: dict[str, Any] = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hi"]}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in TENSOR.items() if key != name}


def test_a_body_becomes_mlservers_type_as_it_is() -> None:
    """What is not sent stays unset, so that MLServer writes it back the same."""
    body = {
        "id": "42",
        "parameters": {"content_type": "pd", "n": 2},
        "inputs": [TENSOR | {"parameters": {"content_type": "str"}}],
        "outputs": [{"name": "output"}],
    }

    assert inference_request(body).model_dump() == body
    assert inference_request({"inputs": [TENSOR], "model_name": "phi3", "model_version": "1"}).model_dump() == {"inputs": [TENSOR]}


@pytest.mark.parametrize(
    ("body", "message", "field"),
    [
        ([], "the body must be an object, not a list", None),
        ({}, "inputs is required", "inputs"),
        ({"inputs": {}}, "inputs must be a list, not an object", "inputs"),
        ({"inputs": ["Hi"]}, "inputs[0] must be an object, not a string", "inputs[0]"),
        ({"inputs": [without("name")]}, "inputs[0].name is required", "inputs[0].name"),
        ({"inputs": [without("shape")]}, "inputs[0].shape is required", "inputs[0].shape"),
        ({"inputs": [without("datatype")]}, "inputs[0].datatype is required", "inputs[0].datatype"),
        ({"inputs": [without("data")]}, "inputs[0].data is required", "inputs[0].data"),
        ({"inputs": [TENSOR | {"shape": ["1"]}]}, "inputs[0].shape[0] must be an integer, not a string", "inputs[0].shape[0]"),
        ({"inputs": [TENSOR | {"shape": [True]}]}, "inputs[0].shape[0] must be an integer, not a boolean", "inputs[0].shape[0]"),
        ({"inputs": [TENSOR | {"shape": [-5, 1]}]}, "inputs[0].shape[0] must not be negative, not -5", "inputs[0].shape[0]"),
        ({"inputs": [TENSOR | {"shape": [1] * 17}]}, "inputs[0].shape has 17 dimensions; at most 16 are taken", "inputs[0].shape"),
        ({"inputs": [5] * 1025}, "inputs has 1025 tensors; at most 1024 are taken", "inputs"),
        ({"inputs": [], "outputs": [5] * 1025}, "outputs has 1025 tensors; at most 1024 are taken", "outputs"),
        ({"inputs": [TENSOR | {"data": "Hi"}]}, "inputs[0].data must be a list, not a string", "inputs[0].data"),
        (
            {"inputs": [TENSOR | {"datatype": "TEXT"}]},
            "inputs[0].datatype must be BYTES or BOOL or UINT8 or UINT16 or UINT32 or UINT64 or INT8 or INT16 or INT32 or INT64"
            " or FP16 or FP32 or FP64, not 'TEXT'",
            "inputs[0].datatype",
        ),
        ({"inputs": [TENSOR | {"extra": 1}]}, "inputs[0].extra is not a known field", "inputs[0].extra"),
        ({"inputs": [TENSOR], "parameters": []}, "parameters must be an object, not a list", "parameters"),
        (
            {"inputs": [TENSOR], "parameters": {"content_type": 5}},
            "parameters.content_type must be a string, not an integer",
            "parameters.content_type",
        ),
        ({"inputs": [TENSOR], "parameters": {"headers": 5}}, "parameters.headers must be an object, not an integer", "parameters.headers"),
        ({"inputs": [TENSOR], "outputs": [{}]}, "outputs[0].name is required", "outputs[0].name"),
        ({"inputs": [TENSOR], "outputs": [{"name": "output", "shape": [1]}]}, "outputs[0].shape is not a known field", "outputs[0].shape"),
        ({"inputs": [TENSOR], "id": 5}, "id must be a string, not an integer", "id"),
        ({"inputs": [TENSOR], "prompt": "Hi"}, "prompt is not a known field", "prompt"),
        ({"inputs": [TENSOR], "text_input": "Hi"}, "text_input is not a known field: send either text_input or inputs", "text_input"),
    ],
)
def test_a_body_out_of_form_is_refused_by_path(refusal: Callable[..., Any], body: Any, message: str, field: str | None) -> None:
    """One string that says where, not a validator's list: other servers' clients read `error` as text."""
    assert refusal(inference_request, body) == (InvalidRequest, message, field)


def test_a_generate_body_is_the_same_request(limits: Limits) -> None:
    """Triton's short form, with its parameters."""
    body = {"id": "42", "text_input": "Hi", "parameters": {"temperature": 0.5, "stream": False}}
    payload = generate_request(body, streamed=False)

    assert payload.id == "42"
    assert v2.requests(payload, limits) == (ChatRequest(prompt="Hi", temperature=0.5),)
    assert v2.requests(generate_request({"text_input": "Hi"}, streamed=True), limits) == (ChatRequest(prompt="Hi"),)


@pytest.mark.parametrize(
    ("body", "streamed", "message", "field"),
    [
        ({}, False, "text_input is required", "text_input"),
        ({"text_input": 5}, False, "text_input must be a string, not an integer", "text_input"),
        ({"text_input": "a", "inputs": []}, False, "inputs is not a known field: send either text_input or inputs", "inputs"),
        (
            {"text_input": "a", "parameters": {"stream": True}},
            False,
            "parameters.stream is true: post to generate_stream, or leave it out",
            "parameters.stream",
        ),
        (
            {"text_input": "a", "parameters": {"stream": False}},
            True,
            "parameters.stream is false: post to generate, or leave it out",
            "parameters.stream",
        ),
        (
            {"text_input": "a", "parameters": {"headers": [None]}},
            False,
            "parameters.headers must be an object, not a list",
            "parameters.headers",
        ),
        (
            {"text_input": "a", "parameters": {"content_type": 7}},
            True,
            "parameters.content_type must be a string, not an integer",
            "parameters.content_type",
        ),
    ],
)
def test_a_wrong_generate_body_is_refused(
    refusal: Callable[..., Any], body: dict[str, Any], streamed: bool, message: str, field: str
) -> None:
    """By field, and never with a stream where one answer was asked for."""
    assert refusal(lambda: generate_request(body, streamed=streamed)) == (InvalidRequest, message, field)


@pytest.mark.parametrize("n", [2, 0, "2", [1], None, 1, "1"])
def test_one_text_is_one_choice(refusal: Callable[..., Any], n: object) -> None:
    """`generate` has room for one text: more are refused, not glued together. A stream's events say which choice they are of."""
    body = {"text_input": "a", "parameters": {"n": n}}
    message = "parameters.n must be 1: text_output is one text; post tensors to infer for several"

    assert generate_request(body, streamed=True).parameters is not None
    if n in (None, 1, "1"):
        assert generate_request(body, streamed=False).parameters is not None
    else:
        assert refusal(lambda: generate_request(body, streamed=False)) == (Unsupported, message, "parameters.n")


def test_generate_answers_are_flat() -> None:
    """Triton's form: the text with what is known of it beside it."""
    chunks = [Chunk("é"), Chunk("", finish_reason=FinishReason.STOP, usage=Usage(7, 3, 4))]
    found = [generate_answer(v2.stream_response("phi3", "1", "42", chunk).model_dump()) for chunk in chunks]

    assert found == [
        {"id": "42", "model_name": "phi3", "model_version": "1", "text_output": "é"},
        {
            "id": "42",
            "model_name": "phi3",
            "model_version": "1",
            "text_output": "",
            "finish_reason": "stop",
            "prompt_tokens": 7,
            "completion_tokens": 3,
            "total_tokens": 10,
            "cached_tokens": 4,
        },
    ]
