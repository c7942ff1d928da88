"""Between V2 tensors and what a pyfunc takes and gives, by the model's signature.

MLServer's codecs do the work where they can; they leave BYTES undecoded unless the client names a content type, and end in a crash on a
text, a list, a dict or pandas' string columns, so those are written here.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema
from mlflow.utils.proto_json_utils import NumpyEncoder
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.codecs.errors import CodecError
from mlserver.codecs.utils import decode_inference_request, get_decoded
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, ResponseOutput
from mlserver_mlflow.codecs import TensorDictCodec
from mlserver_mlflow.metadata import DefaultInputPrefix, DefaultOutputPrefix, to_metadata_tensors, to_model_content_type

from pilothouse.errors import EngineFailed, InvalidRequest

OUTPUT = "output"
"""The name of an answer's tensor where the signature has none."""
_TRANSPORT = frozenset({"headers", "content_type", "binary_data_output", "binary_data_size", "priority", "timeout"})
"""Request parameters that are for the way, not for the model."""


def tensors(signature: ModelSignature | None) -> tuple[list[MetadataTensor], list[MetadataTensor]]:
    """V2 metadata of a signature: inputs and outputs."""
    inputs = _described(signature.inputs if signature else None, DefaultInputPrefix)
    outputs = _described(signature.outputs if signature else None, DefaultOutputPrefix)
    return inputs, outputs


def _described(schema: Schema | None, prefix: str) -> list[MetadataTensor]:
    return list(to_metadata_tensors(schema, prefix=prefix)) if schema else []


def params(request: InferenceRequest, signature: ModelSignature | None) -> dict[str, Any] | None:
    """The request's parameters that the signature declares. Raises `InvalidRequest` that names one it doesn't."""
    given = dict(request.parameters.model_extra or {}) if request.parameters else {}
    declared = {spec.name for spec in signature.params.params} if signature and signature.params else set()
    for name in given:
        if name not in declared and name not in _TRANSPORT:
            known = f"it declares {', '.join(sorted(declared))}" if declared else "it declares none"
            raise InvalidRequest(f"parameters: {name} is not declared by this model ({known})", field=f"parameters.{name}")
    return {name: value for name, value in given.items() if name in declared} or None


def decode(request: InferenceRequest, signature: ModelSignature | None) -> Any:
    """What the pyfunc takes: a DataFrame, an array or a dict of arrays. Raises `InvalidRequest` that names the input at fault."""
    described = {tensor.name: tensor for tensor in tensors(signature)[0]}
    names = [tensor.name for tensor in request.inputs]
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequest(f"inputs: {name} is sent twice", field="inputs")
        if described and name not in described and len(described) > 1:
            raise InvalidRequest(f"inputs: {name} is none of this model's; send {', '.join(described)}", field="inputs")
    filled = request.model_copy(deep=True)
    for tensor in filled.inputs:
        told = described.get(tensor.name)
        kind = tensor.parameters.content_type if tensor.parameters else None
        if not kind:
            kind = told.parameters.content_type if told and told.parameters else None
        if not kind:
            kind = StringCodec.ContentType if tensor.datatype == "BYTES" else NumpyCodec.ContentType
        if tensor.parameters is None:
            tensor.parameters = Parameters()
        tensor.parameters.content_type = kind
    if filled.parameters is None:
        filled.parameters = Parameters()
    if not filled.parameters.content_type:
        filled.parameters.content_type = (
            to_model_content_type(signature.inputs) if signature and signature.inputs else PandasCodec.ContentType
        )
    try:
        if filled.parameters.content_type == TensorDictCodec.ContentType:
            decode_inference_request(filled)
            return {tensor.name: np.asarray(get_decoded(tensor)) for tensor in filled.inputs}
        return decode_inference_request(filled)
    except (CodecError, ValueError, TypeError, KeyError, IndexError, AttributeError, MlflowException):
        shapes = ", ".join(f"{t.name} {t.datatype} {t.shape}" for t in request.inputs)
        wanted = ", ".join(f"{t.name} {t.datatype} {t.shape}" for t in described.values())
        raise InvalidRequest(
            f"inputs: {shapes} can't be read{f'; this model takes {wanted}' if wanted else ''}: check datatype, shape and data",
            field="inputs",
        ) from None


def encode(answer: Any, signature: ModelSignature | None, *, name: str, version: str | None, request_id: str | None) -> InferenceResponse:
    """V2's form of whatever a pyfunc answered: one tensor a column, an array as it is, texts as BYTES, anything else as JSON texts."""
    described = tensors(signature)[1]
    try:
        outputs, kind = _outputs(answer, described[0].name if len(described) == 1 else OUTPUT)
    except (TypeError, ValueError, KeyError) as error:
        raise EngineFailed("the model's answer can't be written as V2 tensors; the reason is in the server's log") from error
    return InferenceResponse(
        model_name=name, model_version=version, id=request_id, parameters=Parameters(content_type=kind), outputs=outputs
    )


def _outputs(answer: Any, name: str) -> tuple[list[ResponseOutput], str]:
    if isinstance(answer, pd.DataFrame):
        return [_output(str(column), answer[column].to_numpy()) for column in answer], PandasCodec.ContentType
    if isinstance(answer, pd.Series):
        return [_output(str(answer.name or name), answer.to_numpy())], PandasCodec.ContentType
    if hasattr(answer, "toarray"):  # scipy's sparse matrices
        answer = answer.toarray()
    if isinstance(answer, Mapping) and answer and all(isinstance(value, np.ndarray | pd.Series) for value in answer.values()):
        return [_output(str(key), np.asarray(value)) for key, value in answer.items()], TensorDictCodec.ContentType
    output = _output(name, answer if isinstance(answer, np.ndarray) else _rows(answer))
    return [output], str(output.parameters.content_type if output.parameters else NumpyCodec.ContentType)


def _rows(answer: Any) -> Any:
    """An answer that is no array, as one: a list's items are rows, anything else is one row."""
    rows = list(answer) if isinstance(answer, list | tuple) else [answer]
    if rows and all(isinstance(row, bool | int | float | np.number | np.bool_ | np.ndarray) for row in rows):
        try:
            return np.asarray(rows)
        except ValueError:  # arrays of several shapes
            return rows
    return rows


def _output(name: str, values: Any) -> ResponseOutput:
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return NumpyCodec.encode_output(name, values)
    if isinstance(values, np.ndarray) and values.dtype.kind in "Mm":
        values = values.astype(str)
    flat: Sequence[Any] = values.ravel().tolist() if isinstance(values, np.ndarray) else values
    shape = list(values.shape) if isinstance(values, np.ndarray) and values.ndim > 1 else [len(flat), 1]
    if all(isinstance(value, str | bytes) for value in flat):
        texts = [value if isinstance(value, str) else value.decode() for value in flat]
        output = StringCodec.encode_output(name, texts)
    else:
        output = StringCodec.encode_output(name, [json.dumps(value, cls=NumpyEncoder, ensure_ascii=False) for value in flat])
        output.parameters = Parameters(content_type=PandasCodec.JsonContentType)
    output.shape = shape
    return output
