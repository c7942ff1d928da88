"""A question and what was told in answer, in one shape for every protocol, so that answers can be compared."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilothouse.smoke.client import Client


@dataclass(frozen=True, slots=True)
class Told:
    """What a protocol answered: text, finish reason ("" where the form has none), the prompt's and the answer's tokens; with n > 1 text and
    reason of the `others` too."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    others: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """`messages` for the chat forms; `prompt` for the raw ones; `options` are sampling options with OpenAI's names, None for one to leave out."""

    messages: tuple[dict[str, Any], ...] = ()
    prompt: str | None = None
    options: dict[str, Any] | None = None

    @property
    def sampling(self) -> dict[str, Any]:
        return {name: value for name, value in {"temperature": 0, **(self.options or {})}.items() if value is not None}

    @property
    def body(self) -> dict[str, Any]:
        return {"messages": list(self.messages)} if self.prompt is None else {"prompt": self.prompt}

    @property
    def tensor(self) -> tuple[str, str]:
        """Name and datum of the question as a tensor."""
        return ("messages", json.dumps(list(self.messages))) if self.prompt is None else ("prompt", self.prompt)

    @property
    def v2(self) -> dict[str, Any]:
        """The question as an inference request."""
        name, datum = self.tensor
        return {"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [datum]}], "parameters": self.sampling}


class WrongAnswer(Exception):
    """An answer that the contract does not allow; the message says what was wrong."""


class KeyWanted(WrongAnswer):
    """The server answers nobody without one of its API keys."""


def demand(condition: bool, otherwise: str) -> None:
    """Raise `WrongAnswer` unless the condition holds."""
    if not condition:
        raise WrongAnswer(otherwise)


def ok(client: Client, path: str, body: Any) -> Any:
    """The JSON of a 200."""
    reply = client.post(path, body)
    demand(reply.status == 200, f"POST {path} answered {reply.status}: {reply.body[:300]!r}")
    return reply.json


def told(choices: Sequence[tuple[str, str]], usage: Mapping[str, Any]) -> Told:
    """Text and reason of every choice, in order, with their counts together."""
    prompt, answer, both = (int(usage[name]) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    demand(both == prompt + answer, f"total_tokens is not the sum: {usage}")
    (text, reason), *others = choices
    return Told(text, reason, prompt, answer, tuple(others))


class Deltas:
    """Pieces of a stream's choices, joined."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._reasons: dict[int, str] = {}

    def add(self, index: int, text: str, reason: str | None) -> None:
        demand(index not in self._reasons, f"choice {index} went on after its finish reason")
        self._texts[index] = self._texts.get(index, "") + text
        if reason:
            self._reasons[index] = reason

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Text and reason of each, in order; every one must have ended."""
        demand(bool(self._texts), "the stream was empty")
        demand(self._texts.keys() == self._reasons.keys(), f"finish reasons of {len(self._reasons)} of {len(self._texts)} choices")
        return [(self._texts[index], self._reasons[index]) for index in sorted(self._texts)]


def v2_told(parameters: Mapping[str, Any], texts: Sequence[str]) -> Told:
    """A V2 answer: its rows, and what its parameters say of them."""
    reasons = parameters["finish_reason"].split(",")
    demand(len(reasons) == len(texts), f"{len(texts)} rows and {len(reasons)} finish reasons")
    return told(list(zip(texts, reasons, strict=True)), parameters)


def v2_stream_told(pieces: Sequence[tuple[Mapping[str, Any], str]]) -> Told:
    """A V2 stream: parameters and text of each of its messages. Every choice counts its own tokens, the prompt's once each."""
    deltas, counts = Deltas(), []
    for parameters, text in pieces:
        deltas.add(int(parameters.get("index", 0)), text, parameters.get("finish_reason"))
        if "total_tokens" in parameters:
            counts.append(parameters)
    choices = deltas.choices
    demand(len(counts) == len(choices), f"counts of {len(counts)} of {len(choices)} choices")
    prompt, answer = counts[0]["prompt_tokens"], sum(count["completion_tokens"] for count in counts)
    return told(choices, {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer})
