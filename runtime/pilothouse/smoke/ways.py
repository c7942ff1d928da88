"""The same question over every REST protocol, whole and streamed."""

from collections.abc import Callable
from typing import Any

from pilothouse.smoke import responses
from pilothouse.smoke.answers import Deltas, Question, Told, demand, ok, told, v2_stream_told, v2_told
from pilothouse.smoke.client import Client

Way = Callable[[Client, str, Question], Told]


def openai(client: Client, model: str, question: Question) -> Told:
    chat = question.prompt is None
    answer = ok(client, "/v1/chat/completions" if chat else "/v1/completions", {"model": model, **question.body, **question.sampling})
    return _choices(answer, chat=chat)


def openai_stream(client: Client, model: str, question: Question) -> Told:
    chat = question.prompt is None
    body = {"model": model, **question.body, **question.sampling, "stream": True, "stream_options": {"include_usage": True}}
    chunks = _chunks(client, "/v1/chat/completions" if chat else "/v1/completions", body)
    return _joined(chunks, chat=chat)


def response(client: Client, model: str, question: Question) -> Told:
    """OpenAI's newer form of a chat; what it can't say is asked as one."""
    return (responses.whole if responses.asks(question) else openai)(client, model, question)


def response_stream(client: Client, model: str, question: Question) -> Told:
    return (responses.streamed if responses.asks(question) else openai_stream)(client, model, question)


def invocations(client: Client, model: str, question: Question) -> Told:
    """A chat is one object; a prompt is a row, answered by its text alone."""
    if question.prompt is None:
        return _choices(ok(client, "/invocations", {**question.body, **question.sampling}), chat=True)
    rows = ok(client, "/invocations", {"inputs": {"prompt": [question.prompt]}, "params": question.sampling})["predictions"]
    demand(len(rows) == 1, f"{len(rows)} predictions for one prompt")
    return Told(rows[0], "", 0, 0)


def invocations_stream(client: Client, model: str, question: Question) -> Told:
    """Chats only: MLflow's rows have no stream."""
    if question.prompt is not None:
        return invocations(client, model, question)
    return _joined(_chunks(client, "/invocations", {**question.body, **question.sampling, "stream": True}), chat=True)


def v2(client: Client, model: str, question: Question) -> Told:
    return _v2(client, f"/v2/models/{model}/infer", question)


def v2_stream(client: Client, model: str, question: Question) -> Told:
    return _v2_stream(client, f"/v2/models/{model}/infer_stream", question)


def generate(client: Client, model: str, question: Question) -> Told:
    """Triton's body for a prompt; it has no chats, and the path takes tensors too."""
    if question.prompt is None or "n" in question.sampling:
        return _v2(client, f"/v2/models/{model}/generate", question)
    answer = ok(client, f"/v2/models/{model}/generate", {"text_input": question.prompt, "parameters": question.sampling})
    return v2_told(answer, [answer["text_output"]])


def generate_stream(client: Client, model: str, question: Question) -> Told:
    path = f"/v2/models/{model}/generate_stream"
    if question.prompt is None:
        return _v2_stream(client, path, question)
    chunks = _chunks(client, path, {"text_input": question.prompt, "parameters": question.sampling}, done=False)
    return v2_stream_told([(chunk, chunk["text_output"]) for chunk in chunks])


REST: dict[str, Way] = {
    "OpenAI": openai,
    "OpenAI stream": openai_stream,
    "responses": response,
    "responses stream": response_stream,
    "V2 REST": v2,
    "V2 REST stream": v2_stream,
    "generate": generate,
    "generate stream": generate_stream,
    "invocations": invocations,
    "invocations stream": invocations_stream,
}


def _choices(answer: Any, *, chat: bool) -> Told:
    """A whole answer of OpenAI's kind."""
    choices = answer["choices"]
    demand([choice["index"] for choice in choices] == list(range(len(choices))), "the choices are not numbered in order")
    return told([(c["message"]["content"] if chat else c["text"], c["finish_reason"]) for c in choices], answer["usage"])


def _joined(chunks: list[Any], *, chat: bool) -> Told:
    """A stream of OpenAI's kind, its promises held on the way: one id, the role first, usage last and with no choices."""
    demand(len({chunk["id"] for chunk in chunks}) == 1, "the stream's chunks have different ids")
    deltas, opened = Deltas(), set()
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        if chat and choice["index"] not in opened:
            opened.add(choice["index"])
            demand(choice["delta"].get("role") == "assistant", "a choice's first delta does not carry the role")
        deltas.add(choice["index"], (choice["delta"].get("content") or "") if chat else choice["text"], choice["finish_reason"])
    demand(chunks[-1]["choices"] == [], "the usage chunk has choices")
    return told(deltas.choices, chunks[-1]["usage"])


def _chunks(client: Client, path: str, body: Any, *, done: bool = True) -> list[Any]:
    """A stream's JSON; `done`: it must end with OpenAI's word for the end."""
    events = list(client.events(path, body))
    demand(bool(events), "the stream was empty")
    if done:
        demand(events.pop().done, "the stream did not end with data: [DONE]")
    chunks = [event.json for event in events]
    demand(not any("error" in chunk for chunk in chunks), f"the stream carried an error: {chunks[-1]}")
    return chunks


def _v2(client: Client, path: str, question: Question) -> Told:
    answer = ok(client, path, {"id": "smoke-1", **question.v2})
    demand(answer["id"] == "smoke-1", f"the request's id smoke-1 came back as {answer.get('id')!r}")
    output = answer["outputs"][0]
    promised = {"name": "output", "datatype": "BYTES", "shape": [len(output["data"])]}
    demand({name: output[name] for name in promised} == promised, f"not the promised tensor: {output}")
    return v2_told(answer["parameters"], output["data"])


def _v2_stream(client: Client, path: str, question: Question) -> Told:
    chunks = _chunks(client, path, {"id": "smoke-1", **question.v2}, done=False)
    demand({chunk["id"] for chunk in chunks} == {"smoke-1"}, "the request's id did not come back in every message")
    return v2_stream_told([(chunk.get("parameters", {}), chunk["outputs"][0]["data"][0]) for chunk in chunks])
