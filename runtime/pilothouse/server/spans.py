"""A finished call as a span: its name and its attributes, in OpenTelemetry's conventions for HTTP, RPC and generative AI.

The one place that says what a trace of a served request holds, whoever stores it. It is made of the call's account, which has no content:
no prompt, no answer, no stop string, no key.
"""

from collections.abc import Mapping, Sequence

from pilothouse.calls import Call
from pilothouse.server.finished import ended
from pilothouse.server.grpc_messages import SERVICE

Value = str | bool | int | float | Sequence[str]

PROVIDER = "pilothouse"

_OPTIONS = {  # of a request, as the conventions name them
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "repetition_penalty": "pilothouse.request.repetition_penalty",
    "n": "gen_ai.request.choice.count",
    "stream": "gen_ai.request.stream",
}


def name(call: Call, model: Mapping[str, str]) -> str:
    """`chat phi3` where a model was asked, else the method and the route's template."""
    if call.operation and "name" in model:
        return f"{call.operation} {model['name']}"
    return f"{call.method} {call.route}" if call.method else f"{SERVICE}/{call.route}"


def attributes(call: Call, model: Mapping[str, str]) -> dict[str, Value]:
    """What is known of a call. `model` has the served model's name, version, engine and digest, as far as they are known."""
    found: dict[str, Value] = {"pilothouse.request.id": call.id, "pilothouse.protocol": call.protocol, "pilothouse.outcome": ended(call)}
    if call.tenant:
        found["pilothouse.key"] = call.tenant
    found |= _wire(call)
    if call.operation:
        found |= _asked(call, model)
    return found


def failed(call: Call) -> bool:
    """Whether the server is at fault: a refusal, or a client that left, is no error of this span."""
    return ended(call) == "failed"


def _wire(call: Call) -> dict[str, Value]:
    if call.method:
        found: dict[str, Value] = {
            "http.request.method": "_OTHER" if call.method == "other" else call.method,
            "http.response.status_code": call.status,
        }
        if call.route != "unknown":
            found["http.route"] = call.route
    else:
        found = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": call.route, "rpc.response.status_code": call.status}
    if ended(call) in ("failed", "refused"):
        found["error.type"] = str(call.status)
    return found


def _asked(call: Call, model: Mapping[str, str]) -> dict[str, Value]:
    found: dict[str, Value] = {"gen_ai.operation.name": call.operation, "gen_ai.provider.name": PROVIDER, "gen_ai.output.type": "text"}
    for fact, key in (
        ("name", "gen_ai.request.model"),
        ("name", "gen_ai.response.model"),
        ("version", "pilothouse.model.version"),
        ("digest", "pilothouse.model.digest"),
        ("engine", "pilothouse.engine"),
        ("uri", "pilothouse.model.uri"),
    ):
        if fact in model:
            found[key] = model[fact]
    found |= {_OPTIONS[option]: value for option, value in call.options.items() if option in _OPTIONS}
    found |= {
        "gen_ai.usage.input_tokens": call.prompt_tokens,
        "gen_ai.usage.output_tokens": call.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": call.cached_tokens,
    }
    if call.finish_reasons:
        found["gen_ai.response.finish_reasons"] = call.finish_reasons
    if call.first_token_seconds is not None:
        found["gen_ai.response.time_to_first_chunk"] = call.first_token_seconds
    if call.queue_seconds is not None:
        found["pilothouse.queue_seconds"] = call.queue_seconds
    return found
