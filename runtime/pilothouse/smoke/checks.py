"""The checks: each a function whose docstring states the promise. They run against any server that has finished loading."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pilothouse.smoke.answers import KeyWanted, Question, Told, WrongAnswer, demand
from pilothouse.smoke.client import Client
from pilothouse.smoke.ways import REST

SPAIN = Question(messages=({"role": "user", "content": "What is the capital of Spain?"},))
COMEDIAN = Question(prompt="<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>")


@dataclass(frozen=True, slots=True)
class Target:
    """A server under check: its REST client, its gRPC address where that is to be checked, and its one model's name."""

    client: Client
    model: str
    grpc: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One check's outcome: `problem` is None where the promise held."""

    name: str
    promise: str
    milliseconds: float
    problem: str | None


def health(target: Target) -> None:
    """Live and ready answer 200 without a key."""
    keyless = replace(target.client, key=None)
    for path in ("/v2/health/live", "/v2/health/ready", "/ping"):
        demand(keyless.get(path).status == 200, f"{path} answered {keyless.get(path).status}")


def one_name(target: Target) -> None:
    """/v1/models and the V2 metadata give the model one name, and the tensors are those that work."""
    model = target.client.get("/v1/models").json["data"][0]["id"]
    metadata = target.client.get(f"/v2/models/{model}").json
    demand(metadata["name"] == model, f"/v1/models says {model}, V2 metadata {metadata['name']}")
    inputs = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
    demand(inputs == {"prompt": "BYTES", "messages": "BYTES"}, f"inputs are {inputs}")
    demand([(t["name"], t["datatype"]) for t in metadata["outputs"]] == [("output", "BYTES")], f"outputs are {metadata['outputs']}")
    demand(target.client.get(f"/v2/models/{model}/ready").status == 200, "the model is not ready")


def parity(target: Target) -> None:
    """One question gets the same text, finish reason and usage over every REST protocol, streamed or not."""
    for question in (SPAIN, COMEDIAN):
        same({name: ask(target.client, target.model, question) for name, ask in REST.items()})


def sampled(target: Target) -> None:
    """The same seed gives the same text over every protocol."""
    question = replace(SPAIN, options={"temperature": 0.9, "seed": 7, "max_tokens": 24})
    same({name: ask(target.client, target.model, question) for name, ask in REST.items()})


def cut(target: Target) -> None:
    """max_tokens ends an answer with finish_reason length and exactly that many tokens."""
    told = REST["OpenAI"](target.client, target.model, replace(SPAIN, options={"max_tokens": 3}))
    demand((told.finish_reason, told.completion_tokens) == ("length", 3), f"got {told}")


def unknown_model(target: Target) -> None:
    """An unknown model is a 404 that names it, in each protocol's own shape."""
    openai = target.client.post("/v1/chat/completions", {"model": "no-such-model", "messages": []})
    demand(openai.status == 404 and "no-such-model" in openai.json["error"]["message"], f"OpenAI: {openai.status} {openai.body[:200]!r}")
    v2 = target.client.post("/v2/models/no-such-model/infer", {})
    demand(v2.status == 404 and "no-such-model" in v2.json["error"], f"V2: {v2.status} {v2.body[:200]!r}")


def bad_input(target: Target) -> None:
    """Malformed JSON, wrong types and unknown paths are typed errors in each protocol's own shape."""
    shapes = (
        ("/v1/chat/completions", _openai),
        ("/v1/responses", _openai),
        (f"/v2/models/{target.model}/infer", _v2),
        ("/invocations", _mlflow),
    )
    for path, shape in shapes:
        for body in (b"{", b"[]", b'{"messages": 7, "inputs": 7}'):
            reply = target.client.post(path, body)
            demand(reply.status == 400 and shape(reply.json), f"{path} answered {body!r} with {reply.status} {reply.body[:200]!r}")
    demand(target.client.get("/v1/no-such-route").status == 404, "an unknown path is not a 404")
    demand(target.client.get("/v1/chat/completions").status == 405, "a wrong method is not a 405")


def grpc_answers(target: Target) -> None:
    """gRPC answers health, metadata, a unary call and a stream, and a wrong request gets INVALID_ARGUMENT or NOT_FOUND."""
    from pilothouse.smoke import grpc_client  # MLServer's messages cost two seconds to import

    assert target.grpc is not None
    told = {"OpenAI": REST["OpenAI"](target.client, target.model, SPAIN)}
    with grpc_client.connect(target.grpc, target.client.key, trust=target.client.trust) as calls:
        calls.demand_health(target.model)
        told["gRPC"] = calls.infer(target.model, SPAIN)
        told["gRPC stream"] = calls.stream(target.model, SPAIN)
        calls.demand_errors(target.model)
    same(told)


CHECKS: tuple[Callable[[Target], None], ...] = (health, one_name, parity, sampled, cut, unknown_model, bad_input)


def run(target: Target) -> Iterator[Result]:
    """Every check in turn, a failure never ending the others."""
    for check in (*CHECKS, *([grpc_answers] if target.grpc else [])):
        begun = time.perf_counter()
        problem: str | None = None
        try:
            check(target)
        except WrongAnswer as error:
            problem = str(error)
        except Exception as error:  # a server that breaks off is a finding, not the end of the report
            problem = f"{type(error).__name__}: {error}"
        name = check.__name__.replace("_", " ")
        yield Result(name, (check.__doc__ or "").strip(), (time.perf_counter() - begun) * 1000, problem)


def find_model(client: Client) -> str:
    """The one name of the served model."""
    reply = client.get("/v1/models")
    if reply.status == 401:
        raise KeyWanted("its API key is wrong" if client.key else "it wants an API key")
    if reply.status != 200:
        raise WrongAnswer(f"/v1/models answered {reply.status}: {reply.body[:200].decode(errors='replace')}")
    return str(reply.json["data"][0]["id"])


def same(told: dict[str, Told]) -> None:
    """Raise `WrongAnswer` unless all protocols that report counts agree on everything, the others on the text."""
    reference = told["OpenAI"]
    for name, answer in told.items():
        expected = reference if answer.finish_reason else replace(answer, text=reference.text)
        demand(answer == expected, f"{name} answered {answer}, OpenAI {reference}")


def _openai(body: Any) -> bool:
    return isinstance(body, dict) and set(body["error"]) == {"message", "type", "param", "code"}


def _v2(body: Any) -> bool:
    return isinstance(body, dict) and set(body) == {"error"} and isinstance(body["error"], str)


def _mlflow(body: Any) -> bool:
    return isinstance(body, dict) and set(body) == {"error_code", "message"}
