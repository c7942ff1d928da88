"""One request, one answer: the same over every protocol, streamed or not, for every engine."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from pilothouse.smoke import checks, grpc_client, responses
from pilothouse.smoke.answers import Question, Told, WrongAnswer
from pilothouse.smoke.checks import Target
from pilothouse.smoke.ways import REST
from support.questions import QUESTIONS, REFUSED

Ask = Callable[[Question], Told]

RENDERED = ("many turns", "developer prompt", "nothing said", "long", "temperature", "json schema")


@pytest.fixture(scope="module")
def calls(target: Target) -> Iterator[grpc_client.Calls | None]:
    """A gRPC channel to the server under contract, where its address is known."""
    if target.grpc is None:
        yield None
        return
    with grpc_client.connect(target.grpc, target.client.key) as made:
        yield made


@pytest.fixture(scope="module")
def ways(target: Target, calls: grpc_client.Calls | None) -> Mapping[str, Ask]:
    """Every protocol's way of asking."""

    def rest(name: str) -> Ask:
        return lambda question: REST[name](target.client, target.model, question)

    found = {name: rest(name) for name in REST}
    if calls is not None:
        found |= {"gRPC": lambda question: calls.infer(target.model, question), "gRPC stream": lambda q: calls.stream(target.model, q)}
    return found


def rendered(messages: tuple[dict[str, str], ...]) -> str:
    """A chat in the form that Phi-3's template gives it."""
    turns = "".join(f"<|{'system' if m['role'] == 'developer' else m['role']}|>\n{m['content']}<|end|>\n" for m in messages)
    return f"{turns}<|assistant|>\n"


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_protocol_gives_one_answer(ways: Mapping[str, Ask], name: str) -> None:
    """Text, finish reason and token counts of every choice are equal over every protocol that has them, whole and streamed.

    All are asked at once: who else is in the batch changes nothing either.
    """
    question = QUESTIONS[name]
    rows_alone = question.prompt is not None and "n" in question.sampling
    asked = {way: ask for way, ask in ways.items() if not (rows_alone and way.startswith("invocations"))}
    with ThreadPoolExecutor(len(asked)) as pool:
        told = dict(zip(asked, pool.map(lambda ask: ask(question), asked.values()), strict=True))

    checks.same(told)


@pytest.mark.parametrize("name", RENDERED)
def test_chat_is_the_completion_of_its_rendered_prompt(ways: Mapping[str, Ask], name: str) -> None:
    """The template is all that is between a chat and a raw prompt: both get one answer and count the same tokens."""
    chat = QUESTIONS[name]
    completion = replace(chat, messages=(), prompt=rendered(chat.messages))

    assert ways["OpenAI"](completion) == ways["OpenAI"](chat)
    assert ways["V2 REST"](completion) == ways["V2 REST"](chat)


@pytest.mark.parametrize("name", REFUSED)
def test_every_protocol_refuses_by_name(ways: Mapping[str, Ask], name: str) -> None:
    """What one protocol refuses, all do: status 400 or INVALID_ARGUMENT, naming the field, and a stream before its first event."""
    question, field = REFUSED[name]
    for way, ask in ways.items():
        if way == "gRPC stream":
            continue  # Triton's stream answers a message, tests/contract/test_grpc.py
        problem = _refusal(ask, question)
        assert problem is not None, f"{way} answered"
        status, text = problem
        named = responses.NAMES.get(field, field) if way.startswith("responses") and responses.asks(question) else field
        assert status in ("400", "INVALID_ARGUMENT"), f"{way}: {text}"
        assert named in text, f"{way}: {text}"


def _refusal(ask: Ask, question: Question) -> tuple[str, str] | None:
    """Status and text of a refusal."""
    try:
        ask(question)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    except (WrongAnswer, ValueError) as error:  # unary, streamed
        text = str(error)
        return ("400" if " answered 400" in text else "other"), text
    return None
