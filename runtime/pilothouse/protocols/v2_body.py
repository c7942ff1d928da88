"""JSON bodies of V2 over REST, strictly, as MLServer's types; and Triton's generate bodies, which are the same request as one text."""

from collections.abc import Mapping
from typing import Any

from mlserver.types import InferenceRequest, Parameters, RequestInput, RequestOutput

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.protocols.fields import Fields
from pilothouse.protocols.limits import at_most
from pilothouse.protocols.v2_binary import NUMBERS, sizes

MAX_TENSORS = 1024


def inference_request(body: Any) -> InferenceRequest:
    """An inference request: no coercion, no unknown field. Its `model_name` and `model_version` stand in the path already and are ignored."""
    fields = Fields(body)
    asks_outputs, inputs, outputs = "outputs" in fields, fields.need_items("inputs"), fields.items("outputs")
    at_most("inputs", len(inputs), MAX_TENSORS, "tensors")
    at_most("outputs", len(outputs), MAX_TENSORS, "tensors")
    found: dict[str, Any] = {
        "id": fields.text("id"),
        "parameters": _parameters(fields),
        "inputs": [_input(Fields(value, f"inputs[{index}]")) for index, value in enumerate(inputs)],
        "outputs": [_output(Fields(value, f"outputs[{index}]")) for index, value in enumerate(outputs)] if asks_outputs else None,
    }
    fields.finish(ignored=("model_name", "model_version"), hints={"text_input": "send either text_input or inputs"})
    return InferenceRequest(**_set(found))


def generate_request(body: Any, *, streamed: bool) -> InferenceRequest:
    """Triton's `{"text_input": ..., "parameters": {...}}`. A `stream` parameter may only repeat what the path says."""
    fields = Fields(body)
    text, request_id, parameters = fields.need_text("text_input"), fields.text("id"), fields.object("parameters")
    fields.finish(hints={"inputs": "send either text_input or inputs"})
    found: dict[str, Any] = {"id": request_id, "inputs": [RequestInput(name="prompt", datatype="BYTES", shape=[1], data=[text])]}
    if parameters is not None:
        stream = parameters.boolean("stream")
        if stream is not None and stream != streamed:
            way = "generate_stream" if stream else "generate"
            raise InvalidRequest(f"parameters.stream is {str(stream).lower()}: post to {way}, or leave it out", field="parameters.stream")
        options = parameters.left()
        if not streamed and options.get("n") not in (None, 1, "1"):
            raise Unsupported("parameters.n must be 1: text_output is one text; post tensors to infer for several", field="parameters.n")
        found["parameters"] = _typed(parameters)
    return InferenceRequest(**_set(found))


def generate_answer(response: Mapping[str, Any]) -> dict[str, Any]:
    """A response (as JSON values) in Triton's form: the text, and what is known of it, in one flat object."""
    output = response["outputs"][0]
    text = "".join(value.decode() if isinstance(value, bytes) else value for value in output["data"])
    answer = {"id": response.get("id"), "model_name": response["model_name"], "model_version": response.get("model_version") or ""}
    return _set(answer) | {"text_output": text} | (response.get("parameters") or {})


def _input(fields: Fields) -> RequestInput:
    fields.require("name", "shape", "datatype", "data")
    found = {
        "name": fields.need_text("name"),
        "datatype": fields.choice("datatype", "BYTES", *NUMBERS),
        "shape": sizes(fields.need_items("shape"), fields.path("shape")),
        "data": fields.need_items("data"),
        "parameters": _parameters(fields),
    }
    fields.finish()
    return RequestInput(**_set(found))


def _output(fields: Fields) -> RequestOutput:
    found = {"name": fields.need_text("name"), "parameters": _parameters(fields)}
    fields.finish()
    return RequestOutput(**_set(found))


def _parameters(fields: Fields) -> Parameters | None:
    given = fields.object("parameters")
    return None if given is None else _typed(given)


def _typed(given: Fields) -> Parameters:
    """As MLServer's type, which knows two of them and takes any other."""
    values = given.left()
    given.text("content_type")
    given.object("headers")
    return Parameters(**values)


def _set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None: MLServer tells "not given" from "given as null" by it."""
    return {name: value for name, value in values.items() if value is not None}
