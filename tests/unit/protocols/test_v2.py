"""Tensors and parameters to requests, answers to tensors."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter, ModelMetadataResponseConverter
from mlserver.types import InferenceRequest, MetadataModelResponse

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Answer, ChatRequest, Choice, Chunk, FinishReason, Guide, Message, Usage
from pilothouse.protocols import v2
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.v2_body import inference_request
from pilothouse.settings import Settings

DEPRECATED = pytest.mark.filterwarnings("ignore:The `construct` method")
"""MLServer's own conversion calls it."""

HI = json.dumps([{"role": "user", "content": "Hi"}])


def prompt(*rows: Any, **more: Any) -> dict[str, Any]:
    return {"name": "prompt", "shape": [len(rows)], "datatype": "BYTES", "data": list(rows)} | more


def chat(text: str = HI, **more: Any) -> dict[str, Any]:
    return {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [text]} | more


def asked(limits: Limits, **body: Any) -> tuple[ChatRequest, ...]:
    return v2.requests(inference_request(body), limits)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([prompt("Hi")], (ChatRequest(prompt="Hi"),)),
        ([prompt("Hi", "Ho")], (ChatRequest(prompt="Hi"), ChatRequest(prompt="Ho"))),
        ([prompt("Hi", "Ho", shape=[2, 1])], (ChatRequest(prompt="Hi"), ChatRequest(prompt="Ho"))),
        ([prompt(["Hi"], ["Ho"], shape=[2, 1])], (ChatRequest(prompt="Hi"), ChatRequest(prompt="Ho"))),
        ([prompt("Hi", parameters={"content_type": "str"})], (ChatRequest(prompt="Hi"),)),
        ([prompt("Hi", parameters={"binary_data_size": 6})], (ChatRequest(prompt="Hi"),)),  # as KServe sends it over gRPC
        ([prompt('"Hi"', parameters={"content_type": "pd_json"})], (ChatRequest(prompt="Hi"),)),
        ([chat()], (ChatRequest(messages=(Message("user", "Hi"),)),)),
        ([chat(shape=[1, 1])], (ChatRequest(messages=(Message("user", "Hi"),)),)),
        ([chat(parameters={"content_type": "pd_json"})], (ChatRequest(messages=(Message("user", "Hi"),)),)),
    ],
)
def test_the_forms_of_input(limits: Limits, inputs: list[Any], expected: tuple[ChatRequest, ...]) -> None:
    """Prompts as [n] or [n, 1], nested or flat; one conversation as JSON; text or pd_json."""
    assert asked(limits, inputs=inputs) == expected


@pytest.mark.parametrize("content_type", ["str", "pd"])
def test_content_types_of_the_request(limits: Limits, content_type: str) -> None:
    """MLServer's clients send one for the whole request too; `pd` makes tensors columns, which changes nothing here."""
    assert asked(limits, inputs=[prompt("Hi")], parameters={"content_type": content_type}) == (ChatRequest(prompt="Hi"),)
    assert asked(limits, inputs=[prompt('"Hi"')], parameters={"content_type": "pd_json"}) == (ChatRequest(prompt="Hi"),)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"temperature": 0.5, "max_tokens": 7}, {"temperature": 0.5, "max_tokens": 7}),
        ({"temperature": "0.5", "max_tokens": "7", "ignore_eos": "true"}, {"temperature": 0.5, "max_tokens": 7, "ignore_eos": True}),
        ({"logit_bias": '{"5": -100}'}, {"logit_bias": ((5, -100.0),)}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": ((5, -100.0),)}),
        ({"stop": "."}, {"stop": (".",)}),
        ({"stop": "5"}, {"stop": ("5",)}),
        ({"stop": "[]"}, {"stop": ("[]",)}),
        ({"stop": '[".", "!"]'}, {"stop": (".", "!")}),
        ({"stop": [".", "!"]}, {"stop": (".", "!")}),
        ({"user": "5"}, {"user": "5"}),
        ({"response_format": {"type": "json_object"}}, {"guide": Guide("json_object")}),
        ({"response_format": '{"type": "json_object"}'}, {"guide": Guide("json_object")}),
        ({"headers": {"a": "b"}, "binary_data_output": True, "triton_enable_empty_final_response": True}, {}),
    ],
)
def test_parameters_are_sampling_options(limits: Limits, parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    """OpenAI's names; a string may hold the JSON of what it means, because gRPC has no floats and no objects."""
    assert asked(limits, inputs=[prompt("Hi")], parameters=parameters) == (ChatRequest(prompt="Hi", **expected),)


@pytest.mark.parametrize(
    ("body", "kind", "message", "field"),
    [
        ({"inputs": []}, InvalidRequest, "inputs is empty; send prompt or messages", "inputs"),
        (
            {"inputs": [prompt("a", name="text")]},
            InvalidRequest,
            "inputs[0].name 'text' is no input of this model; prompt and messages are",
            "inputs[0].name",
        ),
        (
            {"inputs": [prompt("a"), prompt("1", name="temperature")]},
            InvalidRequest,
            "inputs[1].name 'temperature' is no input of this model; prompt and messages are; sampling options go into parameters",
            "inputs[1].name",
        ),
        ({"inputs": [prompt("a"), prompt("b")]}, InvalidRequest, "inputs: prompt is given twice; send one input", "inputs[1].name"),
        (
            {"inputs": [prompt("a"), chat()]},
            InvalidRequest,
            "inputs: prompt and messages are both given; send one input",
            "inputs[1].name",
        ),
        (
            {"inputs": [prompt(1, datatype="INT64")]},
            InvalidRequest,
            "inputs[0].datatype must be BYTES, not 'INT64'",
            "inputs[0].datatype",
        ),
        ({"inputs": [prompt("a", shape=[])]}, InvalidRequest, "inputs[0].shape must be [n] or [n, 1], not []", "inputs[0].shape"),
        ({"inputs": [prompt("a", shape=[1, 2])]}, InvalidRequest, "inputs[0].shape must be [n] or [n, 1], not [1, 2]", "inputs[0].shape"),
        (
            {"inputs": [prompt("a", shape=[1, 1, 1])]},
            InvalidRequest,
            "inputs[0].shape must be [n] or [n, 1], not [1, 1, 1]",
            "inputs[0].shape",
        ),
        ({"inputs": [prompt("a", shape=[2])]}, InvalidRequest, "inputs[0].shape is [2], but data has 1 elements", "inputs[0].data"),
        ({"inputs": [prompt()]}, InvalidRequest, "inputs[0].shape must have at least one row", "inputs[0].shape"),
        ({"inputs": [prompt(5)]}, InvalidRequest, "inputs[0].data[0] must be a string, not an integer", "inputs[0].data[0]"),
        ({"inputs": [prompt(["a"])]}, InvalidRequest, "inputs[0].data[0] must be a string, not a list", "inputs[0].data[0]"),
        ({"inputs": [prompt("")]}, InvalidRequest, "prompt must not be empty", "prompt"),
        ({"inputs": [prompt(*["a"] * 65)]}, InvalidRequest, "prompt has 65 rows; at most 64 are taken", "prompt"),
        (
            {"inputs": [prompt("a", parameters={"content_type": "np"})]},
            Unsupported,
            "inputs[0].parameters.content_type 'np' is not read here: send str or pd_json",
            "inputs[0].parameters.content_type",
        ),
        (
            {"inputs": [prompt("a", parameters={"shared_memory_region": "x"})]},
            InvalidRequest,
            "inputs[0].parameters.shared_memory_region is not a known field",
            "inputs[0].parameters.shared_memory_region",
        ),
        (
            {"inputs": [prompt("a", parameters={"content_type": "pd_json"})]},
            InvalidRequest,
            "inputs[0].data[0] is not valid JSON",
            "inputs[0].data[0]",
        ),
        (
            {"inputs": [prompt("5", parameters={"content_type": "pd_json"})]},
            InvalidRequest,
            "inputs[0].data[0] must be a string, not an integer",
            "inputs[0].data[0]",
        ),
        ({"inputs": [chat("Hi")]}, InvalidRequest, "messages is not valid JSON", "messages"),
        ({"inputs": [chat("{}")]}, InvalidRequest, "messages must be a list, not an object", "messages"),
        ({"inputs": [chat("[]")]}, InvalidRequest, "messages must not be empty", "messages"),
        (
            {"inputs": [chat('[{"role": "wizard", "content": "x"}]')]},
            InvalidRequest,
            "messages[0].role must be one of system, developer, user, assistant, tool, not 'wizard'",
            "messages[0].role",
        ),
        (
            {"inputs": [chat(data=[HI, HI], shape=[2])]},
            InvalidRequest,
            "messages has 2 rows; its shape is [1], one conversation",
            "messages",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"temperature": 3}},
            InvalidRequest,
            "temperature must be between 0 and 2, not 3.0",
            "temperature",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"temperature": "hot"}},
            InvalidRequest,
            "parameters.temperature must be a number, not a string",
            "parameters.temperature",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"logit_bias": "five"}},
            InvalidRequest,
            "parameters.logit_bias is not valid JSON",
            "parameters.logit_bias",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"temperature": None}},
            InvalidRequest,
            "parameters.temperature has no value; over gRPC send a number with a fraction as a string",
            "parameters.temperature",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"max_length": 5}},
            InvalidRequest,
            "parameters.max_length is not a known field: send max_tokens, which counts the answer alone",
            "parameters.max_length",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"stream": True}},
            Unsupported,
            "parameters.stream is not supported: the path decides, infer or infer_stream",
            "parameters.stream",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"sequence_id": 5}},
            Unsupported,
            "parameters.sequence_id is not supported: requests share no state here",
            "parameters.sequence_id",
        ),
        (
            {"inputs": [prompt("a")], "parameters": {"content_type": "np"}},
            Unsupported,
            "parameters.content_type 'np' is not read here: send str, pd or pd_json",
            "parameters.content_type",
        ),
        (
            {"inputs": [prompt("a")], "outputs": [{"name": "text"}]},
            InvalidRequest,
            "outputs[0].name 'text' is no output of this model; output is",
            "outputs[0].name",
        ),
        (
            {"inputs": [prompt("a")], "outputs": [{"name": "output"}, {"name": "output"}]},
            InvalidRequest,
            "outputs[1].name 'output' is asked for twice",
            "outputs[1].name",
        ),
        (
            {"inputs": [prompt("a")], "outputs": [{"name": "output", "parameters": {"classification": 3}}]},
            Unsupported,
            "outputs[0].parameters.classification is not supported: this model's output is text",
            "outputs[0].parameters.classification",
        ),
    ],
)
def test_a_wrong_request_is_refused_by_tensor_or_parameter(
    limits: Limits, refusal: Callable[..., Any], body: dict[str, Any], kind: type[InvalidRequest], message: str, field: str
) -> None:
    """Shape, datatype, names and values are judged against each other before anything is computed."""
    assert refusal(v2.requests, inference_request(body), limits) == (kind, message, field)


def test_the_output_may_be_asked_for_by_name(limits: Limits) -> None:
    """As clients that name their outputs do, with a word on its coding."""
    outputs = [{"name": "output", "parameters": {"binary_data": True, "content_type": "str"}}]

    assert asked(limits, inputs=[prompt("Hi")], outputs=outputs) == (ChatRequest(prompt="Hi"),)


@DEPRECATED
def test_grpc_tensors_are_read(limits: Limits) -> None:
    """MLServer's own conversion of a gRPC request: bytes, typed parameters, empty id."""
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="prompt", datatype="BYTES", shape=[2, 1], contents=pb.InferTensorContents(bytes_contents=[b"Hi", "é".encode()])
            )
        ],
        parameters={"max_tokens": pb.InferParameter(int64_param=7), "temperature": pb.InferParameter(string_param="0.5")},
    )

    assert v2.requests(ModelInferRequestConverter.to_types(message), limits) == (
        ChatRequest(prompt="Hi", max_tokens=7, temperature=0.5),
        ChatRequest(prompt="é", max_tokens=7, temperature=0.5),
    )


@DEPRECATED
def test_a_parameter_that_grpc_lost_is_refused(limits: Limits, refusal: Callable[..., Any]) -> None:
    """Triton's double_param is no field of MLServer's message: its value is gone, and a default in its place would be a silent change."""
    message = pb.ModelInferRequest(parameters={"temperature": pb.InferParameter()})
    message.inputs.append(pb.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1]))
    message.raw_input_contents.append(b"\x02\x00\x00\x00Hi")

    assert refusal(v2.requests, ModelInferRequestConverter.to_types(message), limits) == (
        InvalidRequest,
        "parameters.temperature has no value; over gRPC send a number with a fraction as a string",
        "parameters.temperature",
    )


def test_bytes_that_are_no_text_are_refused(limits: Limits, refusal: Callable[..., Any]) -> None:
    """BYTES may hold anything; a prompt is UTF-8."""
    body = {"inputs": [prompt(b"\xff")]}

    assert refusal(v2.requests, inference_request(body), limits) == (
        InvalidRequest,
        "inputs[0].data[0] is not valid UTF-8",
        "inputs[0].data[0]",
    )


PLAIN = Answer((Choice(0, "é", FinishReason.STOP),), Usage(7, 3, 4))
MANY = Answer((Choice(0, "a", FinishReason.STOP), Choice(1, "b", FinishReason.LENGTH)), Usage(5, 2, 1))
COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 4}


def test_one_answer() -> None:
    """One row of `output`, with its end and its counts in parameters."""
    assert v2.response("phi3", "1", "42", [PLAIN]).model_dump() == {
        "model_name": "phi3",
        "model_version": "1",
        "id": "42",
        "parameters": {"finish_reason": "stop"} | COUNTS,
        "outputs": [{"name": "output", "shape": [1], "datatype": "BYTES", "data": ["é".encode()], "parameters": {"content_type": "str"}}],
    }


def test_several_answers() -> None:
    """Rows in order, choices within their row; the counts stay numbers, the ends are joined."""
    found = v2.response("phi3", None, "", [MANY, PLAIN]).model_dump()

    assert found["outputs"][0]["data"] == [b"a", b"b", "é".encode()]
    assert found["outputs"][0]["shape"] == [3]
    assert found["parameters"] == {
        "finish_reason": "stop,length,stop",
        "prompt_tokens": 12,
        "completion_tokens": 5,
        "total_tokens": 17,
        "cached_tokens": 5,
    }
    assert "id" not in found
    assert "model_version" not in found


def test_a_stream_of_deltas() -> None:
    """Each chunk is one row; the last has what the unary answer has; only other choices than the first say which they are."""
    chunks = [Chunk("M"), Chunk("b", index=1), Chunk("", finish_reason=FinishReason.STOP, usage=Usage(7, 3, 4))]
    found = [v2.stream_response("phi3", "1", "42", chunk).model_dump() for chunk in chunks]

    assert [one["outputs"][0]["data"] for one in found] == [[b"M"], [b"b"], [b""]]
    assert [one.get("parameters") for one in found] == [None, {"index": 1}, {"finish_reason": "stop"} | COUNTS]


def test_answers_go_over_grpc() -> None:
    """MLServer's own conversion takes them: bytes for BYTES, integers and strings for parameters, nothing dropped."""
    message = ModelInferResponseConverter.from_types(v2.response("phi3", "1", "42", [PLAIN]))

    assert list(message.outputs[0].contents.bytes_contents) == ["é".encode()]
    assert message.parameters["finish_reason"].string_param == "stop"
    assert {name: message.parameters[name].int64_param for name in COUNTS} == COUNTS


def test_metadata_goes_over_grpc() -> None:
    """Names, datatypes and shapes as both protocols state them."""
    described = MetadataModelResponse(name="phi3", versions=["1"], platform="onnx", inputs=v2.INPUTS, outputs=v2.OUTPUTS)
    message = ModelMetadataResponseConverter.from_types(described)

    assert [(t.name, t.datatype, list(t.shape)) for t in (*message.inputs, *message.outputs)] == [
        ("prompt", "BYTES", [-1]),
        ("messages", "BYTES", [1]),
        ("output", "BYTES", [-1]),
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4) | st.just(HI),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
NAMES = st.sampled_from(["prompt", "messages", "temperature", "stop", "logit_bias", "response_format", "n", "content_type", "x", ""])
TENSORS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "datatype": st.sampled_from(["BYTES", "INT64"]),
        "shape": st.lists(st.integers(-1, 3), max_size=2),
        "data": st.lists(VALUES),
    },
    optional={"parameters": st.dictionaries(NAMES, VALUES, max_size=2)},
)


@settings(max_examples=200, deadline=None)
@given(
    body=st.fixed_dictionaries(
        {"inputs": st.lists(TENSORS, max_size=2)},
        optional={"parameters": st.dictionaries(NAMES, VALUES, max_size=3) | VALUES, "outputs": st.lists(VALUES, max_size=2), "id": VALUES},
    )
)
def test_any_tensors_are_requests_or_a_typed_refusal(body: dict[str, Any]) -> None:
    """Never another exception, which would be a 500."""
    limits = Limits.from_settings(Settings(), vocabulary=1000)
    try:
        found = v2.requests(inference_request(body), limits)
    except InvalidRequest:
        return

    assert all(isinstance(one, ChatRequest) for one in found)


def test_mlservers_own_request_type_is_enough(limits: Limits) -> None:
    """A payload that MLServer's pydantic made, with enums and all, reads the same."""
    payload = InferenceRequest.model_validate({"inputs": [prompt("Hi")], "parameters": {"n": 2}})

    assert v2.requests(payload, limits) == (ChatRequest(prompt="Hi", n=2),)
