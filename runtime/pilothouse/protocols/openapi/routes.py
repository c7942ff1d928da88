"""The routes, with every status they answer."""

from collections.abc import Iterable
from typing import Any

from pilothouse.protocols.openapi.schemas import COUNT, TEXT, Schema, events, ref
from pilothouse.protocols.sse import MEDIA_TYPE as EVENTS
from pilothouse.protocols.v2_binary import HEADER
from pilothouse.protocols.v2_binary import MEDIA_TYPE as BINARY

JSON = "application/json"

MEANING = {
    400: "The request is wrong, or asks what this model can't do; the error names the field.",
    401: "No key, or a wrong one.",
    403: "A right key that may not do this.",
    404: "No such model, version or path.",
    405: "The path has other methods.",
    408: "The request was not sent in time.",
    413: "The body is over the limit, as sent or inflated.",
    415: "A content type or encoding that is not read here.",
    429: "The queue is full, or the request waited in it for too long.",
    431: "Too many headers.",
    500: "The engine broke under this request.",
    503: "Loading, draining, or the engine is being restarted.",
    504: "The request ran longer than the server's limit.",
}
HEAD_AND_BYTES = """An InferenceRequest as JSON, where a tensor may have `"parameters": {"binary_data_size": n}` in place of its data; then the bytes of
each such tensor, in order."""
RETRYABLE = (429, 503)
SHAPES = {"OpenAI": "OpenAIError", "V2": "V2Error", "MLflow": "MLflowError"}
ANY = (401, 403, 405, 431, 500, 503)
"""Statuses that any guarded path may answer."""
ASKING = (400, 401, 403, 404, 405, 408, 413, 415, 429, 431, 500, 503, 504)


def errors() -> dict[str, Any]:
    """The errors of each wire, by name and status: `OpenAI400`, `V2404`..."""
    return {f"{wire}{status}": _error(shape, status) for wire, shape in SHAPES.items() for status in MEANING}


def paths() -> dict[str, Any]:
    """Every path and its operations."""
    found = {
        "/v2": {"get": _get("V2", "server_metadata", "Name, version and extensions.", ref("ServerMetadata"))},
        "/v2/health/live": {"get": _probe("live", "The event loop and the engine make progress.", "Live")},
        "/v2/health/ready": {"get": _probe("ready", "The model has answered, and requests are taken.", "Ready")},
        "/v1/chat/completions": {
            "post": _openai("chat_completion", "A chat.", "ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk")
        },
        "/v1/completions": {"post": _openai("completion", "Raw prompts.", "CompletionRequest", "Completion", "Completion")},
        "/v1/models": {"get": _get("OpenAI", "models", "The one model.", ref("ModelList"))},
        "/v1/models/{model}": {
            "parameters": [_in_path("model")],
            "get": _get("OpenAI", "model", "The model by its name.", ref("Model"), (404,)),
        },
        "/v1/responses": {"post": _response()},
        "/v1/embeddings": {"post": _unserved("embeddings", "Not served: this model writes text and embeds none.")},
        "/v1/feedback": {"post": _feedback()},
        "/invocations": {"post": _invocations()},
        "/ping": {"get": _plain("ping", "MLflow's probe.", (503,))},
        "/health": {"get": _plain("health", "As /ping.", (503,), open_=False)},
        "/version": {"get": _plain("version", "Pilothouse's version.", (), open_=False)},
        "/openapi.json": {"get": _get("V2", "openapi", "This document.", {"type": "object"})},
    }
    for tail, parameters in (("", [_in_path("model")]), ("/versions/{version}", [_in_path("model"), _in_path("version")])):
        base, mark = f"/v2/models/{{model}}{tail}", "_version" if tail else ""
        operations: dict[str, dict[str, Any]] = {
            "": {"get": _get("V2", f"model_metadata{mark}", "Tensors, versions and platform.", ref("ModelMetadata"), (404,))},
            "/ready": {"get": _model_ready(f"model_ready{mark}")},
            "/infer": {"post": _v2(f"infer{mark}", "Whole answers.", streamed=False)},
            "/generate": {"post": _v2(f"generate{mark}", "As /infer.", streamed=False)},
            "/infer_stream": {"post": _v2(f"infer_stream{mark}", "One prompt or chat, in deltas.", streamed=True)},
            "/generate_stream": {"post": _v2(f"generate_stream{mark}", "As /infer_stream.", streamed=True)},
        }
        found |= {base + path: {"parameters": parameters, **operation} for path, operation in operations.items()}
    return found


def _error(shape: str, status: int) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": MEANING[status], "content": {JSON: {"schema": ref(shape)}}}
    if status in RETRYABLE:
        answer["headers"] = {
            "Retry-After": {"schema": COUNT, "description": "Seconds."},
            "Retry-After-Ms": {
                "schema": COUNT,
                "description": "Milliseconds, up to half as long again: those who were refused together do not come back together.",
            },
        }
    return answer


def _answers(wire: str, good: dict[str, Any], statuses: Iterable[int]) -> dict[str, Any]:
    return {"200": good} | {str(status): {"$ref": f"#/components/responses/{wire}{status}"} for status in sorted(set(statuses))}


def _good(description: str, **content: Schema) -> dict[str, Any]:
    return {"description": description, "content": {media: {"schema": schema} for media, schema in content.items()}}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": TEXT | {"minLength": 1}}


def _operation(tag: str, name: str, summary: str, answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"tags": [tag], "operationId": name, "summary": summary, "responses": answers} | more


def _body(**content: Schema) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema} for media, schema in content.items()}}


def _get(tag: str, name: str, summary: str, schema: Schema, statuses: Iterable[int] = ()) -> dict[str, Any]:
    return _operation(tag, name, summary, _answers(tag, _good(summary, **{JSON: schema}), (*ANY, *statuses)))


def _probe(name: str, summary: str, schema: str) -> dict[str, Any]:
    answers: dict[str, Any] = _answers("V2", _good("Yes.", **{JSON: ref(schema)}), (405, 431, 500))
    answers["503"] = _good("No, and why.", **{JSON: ref(schema)})
    return _operation("V2", name, summary, answers, security=[])


def _model_ready(name: str) -> dict[str, Any]:
    answers = _answers("V2", _good("Yes.", **{JSON: ref("Ready")}), (401, 403, 404, 405, 431, 500))
    answers["503"] = _good("No, and why.", **{JSON: ref("Ready")})
    return _operation("V2", name, "The model is ready.", answers)


def _openai(name: str, summary: str, asked: str, whole: str, event: str) -> dict[str, Any]:
    stream = f"With stream true: events of {event}, an OpenAIError where one broke, then `[DONE]`."
    good = _good(stream, **{JSON: ref(whole), EVENTS: events(ref(event), ref("OpenAIError"), done=True)})
    return _operation("OpenAI", name, summary, _answers("OpenAI", good, ASKING), requestBody=_body(**{JSON: ref(asked)}))


def _response() -> dict[str, Any]:
    summary = "A chat in OpenAI's newer form; nothing is stored."
    stream = "With stream true: named events of ResponseEvent, the last of which says how the response ended."
    good = _good(stream, **{JSON: ref("Response"), EVENTS: events(ref("ResponseEvent"), done=False)})
    return _operation("OpenAI", "response", summary, _answers("OpenAI", good, ASKING), requestBody=_body(**{JSON: ref("ResponseRequest")}))


def _unserved(name: str, summary: str) -> dict[str, Any]:
    answers = _answers("OpenAI", {}, (400, *ANY, 408, 413, 415))
    del answers["200"]
    return _operation("OpenAI", name, summary, answers, requestBody=_body(**{JSON: ref("UnservedRequest")}))


def _feedback() -> dict[str, Any]:
    summary = "What somebody thinks of an answer, by its X-Trace-Id; 404 where no traces go to MLflow."
    answers = _answers("OpenAI", _good("MLflow has it.", **{JSON: ref("FeedbackTaken")}), [status for status in ASKING if status != 504])
    return _operation("OpenAI", "feedback", summary, answers, requestBody=_body(**{JSON: ref("FeedbackRequest")}))


def _invocations() -> dict[str, Any]:
    stream = (
        "A chat, predictions, or, for a chat with stream true, events of ChatCompletionChunk, a MLflowError where one broke, then `[DONE]`."
    )
    good = _good(stream, **{JSON: ref("InvocationAnswer"), EVENTS: events(ref("ChatCompletionChunk"), ref("MLflowError"), done=True)})
    table = TEXT | {"description": "A header line with a column prompt, then a row for each."}
    return _operation(
        "MLflow",
        "invocations",
        "MLflow's scoring route.",
        _answers("MLflow", good, ASKING),
        requestBody=_body(**{JSON: ref("InvocationRequest"), "text/csv": table}),
    )


def _plain(name: str, summary: str, statuses: Iterable[int], *, open_: bool = True) -> dict[str, Any]:
    answers = _answers("V2", _good(summary, **{"text/plain": TEXT}), (405, 431, 500, *statuses, *(() if open_ else (401, 403))))
    return _operation("MLflow", name, summary, answers, **({"security": []} if open_ else {}))


def _v2(name: str, summary: str, *, streamed: bool) -> dict[str, Any]:
    asked: Schema = {"anyOf": [ref("InferenceRequest"), ref("GenerateStreamRequest" if streamed else "GenerateRequest")]}
    whole, short = ref("InferenceResponse"), ref("GenerateResponse")
    if streamed:
        good = _good(
            "Events of the same form as the answer; an error is the last event.",
            **{EVENTS: events(whole, short, ref("V2Error"), done=False)},
        )
    else:
        good = _good("In the form that was asked in.", **{JSON: {"anyOf": [whole, short]}, BINARY: TEXT})
        good["headers"] = {HEADER: {"schema": COUNT, "description": "Where the JSON ends and binary tensors begin."}}
    header = {"name": HEADER, "in": "header", "schema": COUNT, "description": "Where the JSON ends, with binary tensors after it."}
    return _operation(
        "V2",
        name,
        summary,
        _answers("V2", good, ASKING),
        parameters=[header],
        requestBody=_body(**{JSON: asked, BINARY: TEXT | {"description": HEAD_AND_BYTES}}),
    )
