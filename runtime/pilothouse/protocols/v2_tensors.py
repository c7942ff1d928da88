"""Input tensors of V2 as rows of text: datatype, shape, data and content type judged against each other."""

from collections.abc import Sequence
from typing import Any

import orjson
from mlserver.types import RequestInput

from pilothouse.bulk import demand_parsable
from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.protocols.fields import Fields, shown, wrong_type
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.options import NAMES
from pilothouse.protocols.v2_binary import sizes

CONTENT_TYPES = (None, "str", "pd_json")
"""How an element is read: as text, or as JSON. MLServer's clients send these words."""


def the_tensor(inputs: Sequence[RequestInput], limits: Limits, content_type: str | None = None) -> tuple[str, list[str]]:
    """The name and the rows of the one input, `prompt` or `messages`. Raises `InvalidRequest` that names the input and what is wrong.

    `content_type` is the request's own, for a tensor that has none. With `pd_json` a prompt is the JSON of a string; messages are JSON anyway.
    """
    if not inputs:
        raise InvalidRequest("inputs is empty; send prompt or messages", field="inputs")
    for index, tensor in enumerate(inputs):
        if tensor.name not in ("prompt", "messages"):
            path, hint = f"inputs[{index}].name", "; sampling options go into parameters" if tensor.name in NAMES else ""
            raise InvalidRequest(f"{path} {shown(tensor.name)} is no input of this model; prompt and messages are{hint}", field=path)
    if len(inputs) > 1:
        twice = inputs[0].name == inputs[1].name
        problem = f"{inputs[1].name} is given twice" if twice else "prompt and messages are both given"
        raise InvalidRequest(f"inputs: {problem}; send one input", field="inputs[1].name")
    tensor = inputs[0]
    rows = _rows(tensor, "inputs[0]", limits)
    if tensor.name == "prompt" and (_content_type(tensor, "inputs[0]") or content_type) == "pd_json":
        rows = [Fields.a_text(decoded(row, f"inputs[0].data[{i}]"), f"inputs[0].data[{i}]") for i, row in enumerate(rows)]
    return tensor.name, rows


def decoded(text: str, path: str) -> Any:
    """The JSON in `text`."""
    demand_parsable(text.encode("utf-8", "surrogatepass"), path)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"{path} is not valid JSON", field=path) from None


def _rows(tensor: RequestInput, path: str, limits: Limits) -> list[str]:
    datatype = getattr(tensor.datatype, "value", tensor.datatype)
    if datatype != "BYTES":
        raise InvalidRequest(f"{path}.datatype must be BYTES, not {shown(datatype)}", field=f"{path}.datatype")
    shape = sizes(tensor.shape, f"{path}.shape")
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise InvalidRequest(f"{path}.shape must be [n] or [n, 1], not {str(shape)[:64]}", field=f"{path}.shape")
    data = tensor.data.root
    if not isinstance(data, list):
        wrong_type(f"{path}.data", "a list", data)
    if not data:
        raise InvalidRequest(f"{path}.shape must have at least one row", field=f"{path}.shape")
    limits.count_rows(len(data), tensor.name)
    if len(shape) == 2:  # nested as its shape says, or flat: the protocol has both
        data = [row[0] if isinstance(row, list) and len(row) == 1 else row for row in data]
    if len(data) != shape[0]:
        raise InvalidRequest(f"{path}.shape is {shape}, but data has {len(data)} elements", field=f"{path}.data")
    return [_text(value, f"{path}.data[{index}]") for index, value in enumerate(data)]


def _text(value: Any, path: str) -> str:
    """An element: text from JSON, bytes of UTF-8 from gRPC and binary bodies."""
    if not isinstance(value, bytes):
        return Fields.a_text(value, path)
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is not valid UTF-8", field=path) from None


def _content_type(tensor: RequestInput, path: str) -> str | None:
    if tensor.parameters is None:
        return None
    content_type: str | None = tensor.parameters.content_type
    if content_type not in CONTENT_TYPES:
        name = f"{path}.parameters.content_type"
        raise Unsupported(f"{name} {shown(content_type)} is not read here: send str or pd_json", field=name)
    # KServe's client sends the size of REST's binary form over gRPC too, where nothing reads it.
    Fields(tensor.parameters.model_extra or {}, f"{path}.parameters").finish(ignored=("binary_data_size",))
    return content_type
