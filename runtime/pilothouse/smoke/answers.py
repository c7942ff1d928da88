"""The same question over every protocol, each answer brought to one shape so that they can be compared."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pilothouse.smoke.client import Client


@dataclass(frozen=True, slots=True)
class Told:
    """What a protocol answered: text, finish reason, and the prompt's and the answer's tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Question:
    """`messages` for the chat forms; `prompt` for the raw ones; `options` are sampling options with OpenAI's names."""

    messages: tuple[dict[str, str], ...] = ()
    prompt: str | None = None
    options: dict[str, Any] | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {"temperature": 0, **(self.options or {})}

    @property
    def body(self) -> dict[str, Any]:
        return {"messages": list(self.messages)} if self.prompt is None else {"prompt": self.prompt}

    @property
    def v2(self) -> dict[str, Any]:
        """The question as an inference request."""
        name, datum = ("messages", json.dumps(list(self.messages))) if self.prompt is None else ("prompt", self.prompt)
        return {"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [datum]}], "parameters": self.sampling}


class WrongAnswer(Exception):
    """An answer that the contract does not allow; the message says what was wrong."""


def demand(condition: bool, otherwise: str) -> None:
    """Raise `WrongAnswer` unless the condition holds."""
    if not condition:
        raise WrongAnswer(otherwise)


def ok(client: Client, path: str, body: Any) -> Any:
    """The JSON of a 200."""
    reply = client.post(path, body)
    demand(reply.status == 200, f"POST {path} answered {reply.status}: {reply.body[:300]!r}")
    return reply.json


def _told(text: str, reason: str, usage: dict[str, Any]) -> Told:
    demand(usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], f"total_tokens is not the sum: {usage}")
    return Told(text, reason, usage["prompt_tokens"], usage["completion_tokens"])


def openai(client: Client, model: str, question: Question) -> Told:
    chat = question.prompt is None
    answer = ok(client, "/v1/chat/completions" if chat else "/v1/completions", {"model": model, **question.body, **question.sampling})
    choice = answer["choices"][0]
    return _told(choice["message"]["content"] if chat else choice["text"], choice["finish_reason"], answer["usage"])


def openai_stream(client: Client, model: str, question: Question) -> Told:
    chat = question.prompt is None
    body = {"model": model, **question.body, **question.sampling, "stream": True, "stream_options": {"include_usage": True}}
    events = list(client.events("/v1/chat/completions" if chat else "/v1/completions", body))
    demand(bool(events) and events[-1].done, "the stream did not end with data: [DONE]")
    chunks = [event.json for event in events[:-1]]
    demand(not any("error" in chunk for chunk in chunks), f"the stream carried an error: {chunks[-1]}")
    demand(len({chunk["id"] for chunk in chunks}) == 1, "the stream's chunks have different ids")
    if chat:
        demand(chunks[0]["choices"][0]["delta"].get("role") == "assistant", "the first delta does not carry the role")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    demand(len(reasons) == 1, f"{len(reasons)} finish reasons in one stream")
    demand(chunks[-1]["choices"] == [], "the usage chunk has choices")
    text = "".join((choice["delta"].get("content") or "") if chat else choice["text"] for choice in choices)
    return _told(text, reasons[0], chunks[-1]["usage"])


def invocations(client: Client, model: str, question: Question) -> Told:
    if question.prompt is None:
        answer = ok(client, "/invocations", {**question.body, **question.sampling})
        choice = answer["choices"][0]
        return _told(choice["message"]["content"], choice["finish_reason"], answer["usage"])
    rows = ok(client, "/invocations", {"inputs": {"prompt": [question.prompt]}, "params": question.sampling})["predictions"]
    demand(len(rows) == 1, f"{len(rows)} predictions for one prompt")
    return Told(rows[0], "", 0, 0)  # MLflow's row form carries the text alone


def v2_parameters(parameters: dict[str, Any], text: str) -> Told:
    usage = {name: int(parameters[name]) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    return _told(text, parameters["finish_reason"], usage)


def v2(client: Client, model: str, question: Question) -> Told:
    answer = ok(client, f"/v2/models/{model}/infer", {"id": "smoke-1", **question.v2})
    demand(answer["id"] == "smoke-1", f"the request's id smoke-1 came back as {answer.get('id')!r}")
    output = answer["outputs"][0]
    demand(output["name"] == "output" and output["datatype"] == "BYTES" and output["shape"] == [1], f"not the promised tensor: {output}")
    return v2_parameters(answer["parameters"], output["data"][0])


def v2_stream(client: Client, model: str, question: Question) -> Told:
    chunks = [event.json for event in client.events(f"/v2/models/{model}/infer_stream", question.v2) if not event.done]
    demand(bool(chunks), "the stream was empty")
    demand(not any("error" in chunk for chunk in chunks), f"the stream carried an error: {chunks[-1]}")
    text = "".join(chunk["outputs"][0]["data"][0] for chunk in chunks)
    last = [chunk["parameters"] for chunk in chunks if chunk.get("parameters", {}).get("finish_reason")]
    demand(len(last) == 1, f"{len(last)} finish reasons in one stream")
    return v2_parameters(last[0], text)


def generate(client: Client, model: str, question: Question) -> Told:
    if question.prompt is None:
        return v2(client, model, question)  # Triton's body has text alone
    answer = ok(client, f"/v2/models/{model}/generate", {"text_input": question.prompt, "parameters": question.sampling})
    return Told(answer["text_output"], "", 0, 0)


def generate_stream(client: Client, model: str, question: Question) -> Told:
    if question.prompt is None:
        return v2_stream(client, model, question)
    body = {"text_input": question.prompt, "parameters": question.sampling}
    chunks = [event.json for event in client.events(f"/v2/models/{model}/generate_stream", body) if not event.done]
    return Told("".join(chunk["text_output"] for chunk in chunks), "", 0, 0)


REST: dict[str, Callable[[Client, str, Question], Told]] = {
    "OpenAI": openai,
    "OpenAI stream": openai_stream,
    "V2 REST": v2,
    "V2 REST stream": v2_stream,
    "generate": generate,
    "generate stream": generate_stream,
    "invocations": invocations,
}
