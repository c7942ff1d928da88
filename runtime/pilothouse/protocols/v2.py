"""The Open Inference Protocol (V2): tensors and parameters to requests, answers to tensors.

REST and gRPC come here as MLServer's own types. Sampling options are request `parameters` with OpenAI's names. gRPC's parameters are strings,
whole numbers and booleans only, so a parameter that is a string may hold the JSON of what it means: `"0.7"`, `"{\\"5\\": -100}"`.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import orjson
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor, Parameters, RequestOutput, ResponseOutput

from pilothouse.errors import InvalidRequest, Unsupported
from pilothouse.messages import Answer, ChatRequest, Chunk, FinishReason, Usage
from pilothouse.protocols.conversation import messages
from pilothouse.protocols.fields import Fields, shown, spelled
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.openai_answers import total
from pilothouse.protocols.options import HINTS, REFUSED, options
from pilothouse.protocols.schema import guide
from pilothouse.protocols.v2_tensors import decoded, the_tensor

INPUTS = [
    MetadataTensor(name="prompt", datatype="BYTES", shape=[-1], parameters=Parameters(content_type="str")),
    MetadataTensor(name="messages", datatype="BYTES", shape=[1], parameters=Parameters(content_type="str")),
]
"""A request sends one of them: raw prompts, or one conversation as a JSON list."""

OUTPUTS = [MetadataTensor(name="output", datatype="BYTES", shape=[-1], parameters=Parameters(content_type="str"))]

IGNORED = ("headers", "content_type", "binary_data_output")
"""Parameters that speak of the wire. `triton_...` ones are the server's business too."""

OBJECTS = ("logit_bias", "response_format", "stop_token_ids")
"""Parameters that over gRPC can only be JSON in a string."""

V2_REFUSED = REFUSED | {
    "echo": "join prompt and output yourself",
    "logprobs": "ask for them over /v1/chat/completions",
    "top_logprobs": "ask for them over /v1/chat/completions",
    "tools": "send them to /v1/chat/completions",
    "tool_choice": "send tools to /v1/chat/completions",
    "stream": "the path decides, infer or infer_stream",
    "sequence_id": "requests share no state here",
    "sequence_start": "requests share no state here",
    "sequence_end": "requests share no state here",
    "priority": "requests are served in the order they come",
    "timeout": "the server's own limit holds; hang up to cancel",
}


def requests(payload: InferenceRequest, limits: Limits) -> tuple[ChatRequest, ...]:
    """One request for each prompt, or for the one conversation. Raises `InvalidRequest` that names the tensor or the parameter."""
    content_type = payload.parameters.content_type if payload.parameters else None
    if content_type not in (None, "str", "pd", "pd_json"):
        name = "parameters.content_type"
        raise Unsupported(f"{name} {shown(content_type)} is not read here: send str, pd or pd_json", field=name)
    _judge(payload.outputs or [])
    name, rows = the_tensor(payload.inputs, limits, content_type)
    asked = _asked(payload.parameters)
    common = {"guide": guide(asked, limits), **options(asked, limits)}
    asked.finish(ignored=IGNORED, hints=HINTS)
    if name == "prompt":
        found = tuple(ChatRequest(prompt=row, **common) for row in rows)
    elif len(rows) == 1:
        conversation = Fields.a_list(decoded(rows[0], "messages"), "messages")
        found = (ChatRequest(messages=messages(conversation, limits), **common),)
    else:
        raise InvalidRequest(f"messages has {len(rows)} rows; its shape is [1], one conversation", field="messages")
    limits.check_rows(found, name)
    return found


def response(model: str, version: str | None, request_id: str | None, answers: Sequence[Answer]) -> InferenceResponse:
    """Every choice of every prompt, in order, as `output` BYTES [prompts * n].

    `parameters` has the counts of all of them together, so that they are numbers for one row and for many, and every row's finish_reason,
    joined by commas.
    """
    choices = [choice for answer in answers for choice in answer.choices]
    return _response(
        model,
        version,
        request_id,
        [choice.text for choice in choices],
        _ending([choice.finish_reason for choice in choices], total([answer.usage for answer in answers])),
    )


def stream_response(model: str, version: str | None, request_id: str | None, chunk: Chunk) -> InferenceResponse:
    """One chunk as `output` BYTES [1]; a choice's last one has finish_reason and counts, and a choice but the first says its `index`."""
    about: dict[str, Any] = {"index": chunk.index} if chunk.index else {}
    if chunk.finish_reason is not None:
        about |= _ending([chunk.finish_reason], chunk.usage)
    return _response(model, version, request_id, [chunk.text], about)


def _response(model: str, version: str | None, request_id: str | None, texts: Sequence[str], about: dict[str, Any]) -> InferenceResponse:
    # As bytes: gRPC takes nothing else, and REST writes them as text.
    data = [text.encode() for text in texts]
    output = ResponseOutput(name="output", datatype="BYTES", shape=[len(data)], data=data, parameters=Parameters(content_type="str"))
    given = {"model_version": version, "id": request_id or None, "parameters": Parameters(**about) if about else None}
    return InferenceResponse(model_name=model, outputs=[output], **{k: v for k, v in given.items() if v is not None})


def _ending(reasons: Sequence[FinishReason], counts: Usage | None) -> dict[str, Any]:
    ending: dict[str, Any] = {"finish_reason": ",".join(reasons)}
    if counts is not None:
        ending |= {
            "prompt_tokens": counts.prompt_tokens,
            "completion_tokens": counts.completion_tokens,
            "total_tokens": counts.total_tokens,
            "cached_tokens": counts.cached_tokens,
        }
    return ending


def _asked(parameters: Parameters | None) -> Fields:
    """The options in `parameters`."""
    given = dict(parameters.model_extra or {}) if parameters else {}
    for name, value in given.items():
        if value is None:
            # A float over gRPC arrives so: this protocol's parameters have none, and dropping it would change the answer in silence.
            path = f"parameters.{spelled(name)}"
            raise InvalidRequest(f"{path} has no value; over gRPC send a number with a fraction as a string", field=path)
    fields = Fields({k: _meant(k, v) for k, v in given.items() if not k.startswith("triton_")}, "parameters")
    fields.refuse(V2_REFUSED)
    return fields


def _meant(name: str, value: Any) -> Any:
    """What a string stands for: the JSON in it, or itself. A stop string means itself unless it is a list of them."""
    if not isinstance(value, str) or name == "user":
        return value
    if name in OBJECTS:
        return decoded(value, f"parameters.{name}")
    with contextlib.suppress(orjson.JSONDecodeError):
        meant = orjson.loads(value)
        return meant if name != "stop" or (isinstance(meant, list) and meant) else value
    return value


def _judge(outputs: Sequence[RequestOutput]) -> None:
    """Only `output` can be asked for, once; how it is coded is the server's business."""
    for index, output in enumerate(outputs):
        path = f"outputs[{index}]"
        if output.name != "output":
            raise InvalidRequest(f"{path}.name {shown(output.name)} is no output of this model; output is", field=f"{path}.name")
        if index:
            raise InvalidRequest(f"{path}.name 'output' is asked for twice", field=f"{path}.name")
        given = Fields((output.parameters.model_extra if output.parameters else None) or {}, f"{path}.parameters")
        given.refuse({"classification": "this model's output is text"})
        given.finish(ignored=("binary_data",))
