"""MLflow's `/invocations`: every form that its scoring server takes, for both kinds of model.

A `messages` body is one chat and is answered by one object, as MLflow's chat signature has it. Every other form is rows, answered by
`{"predictions": [...]}`: a string for a prompt, a chat object for a conversation. MLflow's server drops fields and columns that a model does not
know, and answers a bare list to a top-level `prompt`; here the former are refused by name, and all rows are answered alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pilothouse.errors import InvalidRequest, Unsupported, UnsupportedMedia
from pilothouse.messages import Answer, ChatRequest, Choice
from pilothouse.protocols.fields import Fields, document, shown, wrong_type
from pilothouse.protocols.limits import Limits
from pilothouse.protocols.logprobs import chat_logprobs
from pilothouse.protocols.openai import read_chat
from pilothouse.protocols.openai_answers import tool_call
from pilothouse.protocols.options import HINTS, REFUSED, options
from pilothouse.protocols.schema import guide
from pilothouse.protocols.tables import Row, columns, csv_rows, records, split

ROWS = ("inputs", "instances", "dataframe_split", "dataframe_records")
FORMS = ("messages", "prompt", *ROWS)

ROW_REFUSED = REFUSED | {
    "echo": "join the prompt and the prediction yourself",
    "logprobs": "a prediction is text alone: ask for them over /v1/completions",
    "custom_inputs": "this model takes none",
}


@dataclass(frozen=True, slots=True)
class Invocation:
    """One request for each row; `chat` has exactly one, and alone may be streamed."""

    requests: tuple[ChatRequest, ...]
    form: Literal["chat", "rows"]
    stream: bool = False


def invocation(raw: bytes, content_type: str, limits: Limits) -> Invocation:
    """The body of `/invocations`. Raises `InvalidRequest` that names the field or row, `UnsupportedMedia` for other than JSON and CSV."""
    if _media(content_type) == "text/csv":
        return _table(csv_rows(raw, limits), {}, "rows", limits)
    body = document(raw)
    given = [name for name in FORMS if body.get(name) is not None]
    if len(given) != 1:
        found = f"not {' and '.join(given)}" if given else "and the body has none of them"
        raise InvalidRequest(f"the body must have exactly one of {', '.join(FORMS)}, {found}", field=given[1] if given else "messages")
    form = given[0]
    fields = Fields({name: value for name, value in body.items() if name == form or name not in FORMS})
    params = _params(fields, limits)
    if form == "messages":
        return _chat(fields, params, limits)
    if form == "prompt":
        return _table(columns(params | fields.left(), "", limits), {}, "prompt", limits)
    rows = _rows(form, fields.take(form), limits)
    fields.finish(hints=dict.fromkeys(fields.left(), "send it within params"))
    return _table(rows, params, form, limits)


def answer(asked: Invocation, answer_id: str, created: int, model: str, answers: Sequence[Answer]) -> dict[str, Any]:
    """The whole answer; `created` in seconds since 1970."""
    if asked.form == "chat":
        return _chat_object(answer_id, created, model, answers[0])
    several = len(answers) > 1
    return {
        "predictions": [
            one.choices[0].text
            if request.messages == ()
            else _chat_object(f"{answer_id}-{i}" if several else answer_id, created, model, one)
            for i, (request, one) in enumerate(zip(asked.requests, answers, strict=True))
        ]
    }


def _media(content_type: str) -> str:
    """The media type; none at all is JSON, as MLflow's own clients send it."""
    name, *parameters = [part.strip() for part in content_type.split(";")]
    media = name.lower() or "application/json"
    if media not in ("application/json", "text/csv"):
        raise UnsupportedMedia(f"content type {shown(name)} is not read here: send application/json or text/csv")
    for parameter in parameters:
        if parameter.lower().replace('"', "") not in ("charset=utf-8", ""):
            raise UnsupportedMedia(f"content type parameter {shown(parameter)} is not read here: only charset=utf-8 is")
    return media


def _params(fields: Fields, limits: Limits) -> dict[str, Any]:
    """MLflow's `params`, judged where they stand: they hold for every row."""
    given = fields.object("params")
    if given is None:
        return {}
    values = given.left()
    given.refuse(ROW_REFUSED)
    shared = ChatRequest(prompt="any", guide=guide(given, limits), **options(given, limits))
    given.finish(hints=HINTS)
    limits.check(shared)  # also what every row overrides
    return {name: value for name, value in values.items() if value is not None}


def _chat(fields: Fields, params: dict[str, Any], limits: Limits) -> Invocation:
    stream = fields.boolean("stream") or False
    request = _conversation(Fields(params | fields.left()), limits)
    return Invocation((request,), "chat", stream)


def _conversation(fields: Fields, limits: Limits) -> ChatRequest:
    fields.refuse({"custom_inputs": ROW_REFUSED["custom_inputs"]})
    request, names = read_chat(fields, limits)
    fields.finish(hints=HINTS)
    limits.check(request, names)
    return request


def _rows(form: str, value: Any, limits: Limits) -> list[Row]:
    if form == "dataframe_split":
        return split(value, form, limits)
    if form == "dataframe_records":
        return records(Fields.a_list(value, form), form, limits)
    if isinstance(value, str):
        return [Row({"prompt": value}, form)]
    if isinstance(value, dict):
        return columns(value, form, limits)
    if isinstance(value, list):
        limits.count_rows(len(value), form)
        return records([{"prompt": one} if isinstance(one, str) else one for one in value], form, limits)
    return wrong_type(form, "a string, a list of rows or an object of columns", value)


def _table(rows: Sequence[Row], params: dict[str, Any], form: str, limits: Limits) -> Invocation:
    limits.count_rows(len(rows), form)
    requests = tuple(_row(Fields(params | row.values, row.path), limits) for row in rows)
    limits.check_rows(requests, form)
    return Invocation(requests, "rows")


def _row(fields: Fields, limits: Limits) -> ChatRequest:
    if fields.boolean("stream"):
        raise Unsupported(
            f"{fields.path('stream')} is not supported: only a top-level messages body is streamed", field=fields.path("stream")
        )
    # A table of both kinds of row has both columns, one of them empty in each row.
    if "messages" in fields:
        if "prompt" not in fields:
            fields.take("prompt")
        return _conversation(fields, limits)
    fields.take("messages")
    fields.refuse(ROW_REFUSED)
    request = ChatRequest(prompt=fields.need_text("prompt"), guide=guide(fields, limits), **options(fields, limits))
    if request.n != 1:
        raise Unsupported(f"{fields.path('n')} must be 1: a row has one prediction", field=fields.path("n"))
    fields.finish(hints=HINTS)
    return request


def _chat_object(answer_id: str, created: int, model: str, answer: Answer) -> dict[str, Any]:
    """MLflow's chat signature, field by field; log-probabilities beside it when they were asked for."""
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(choice) for choice in answer.choices],
        "usage": {
            "prompt_tokens": answer.usage.prompt_tokens,
            "completion_tokens": answer.usage.completion_tokens,
            "total_tokens": answer.usage.total_tokens,
        },
    }


def _choice(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text}
    if choice.tool_calls:
        message |= {"content": choice.text or None, "tool_calls": [tool_call(c) for c in choice.tool_calls]}
    found: dict[str, Any] = {"index": choice.index, "finish_reason": choice.finish_reason.value, "message": message}
    return found | ({"logprobs": chat_logprobs(choice.logprobs)} if choice.logprobs else {})
