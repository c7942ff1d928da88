"""OpenAI's own client, its answers parsed strictly, against a running server."""

from collections.abc import Iterator

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from pilothouse.models.pocket.answers import ATOM, SPAIN
from support.server import Served


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    """The official client with its own retries off, so that each answer is the server's first."""
    with openai.OpenAI(base_url=f"{server.rest}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_answers_the_known_question(client: openai.OpenAI, server: Served) -> None:
    """A unary chat parses strictly into the client's own type, with the known text."""
    raw = client.chat.completions.with_raw_response.create(
        model=server.model, messages=[{"role": "user", "content": SPAIN[0]}], temperature=0
    )
    parsed = ChatCompletion.model_validate_json(raw.text, strict=True)

    assert parsed.choices[0].message.content == SPAIN[1]
    assert parsed.choices[0].finish_reason == "stop"
    assert parsed.model_extra == {}


def test_stream_is_the_unary_answer_in_pieces(client: openai.OpenAI, server: Served) -> None:
    """Joined deltas are the known text; one finish reason; usage comes last with no choices."""
    stream = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": ATOM[0]}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks: list[ChatCompletionChunk] = list(stream)

    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ATOM[1]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len(chunks) > 20  # token by token, not in one piece


def test_completion_takes_a_raw_prompt(client: openai.OpenAI, server: Served) -> None:
    """The raw prompt goes in as it is over /v1/completions."""
    answer = client.completions.create(
        model=server.model, prompt=f"<|user|>\n{SPAIN[0]}<|end|>\n<|assistant|>\n", temperature=0, max_tokens=200
    )

    assert answer.choices[0].text == SPAIN[1]


def test_models_are_listed_and_found(client: openai.OpenAI, server: Served) -> None:
    """The one model is listed and can be asked for by its name."""
    assert [model.id for model in client.models.list()] == [server.model]
    assert client.models.retrieve(server.model).id == server.model


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"temperature": 3.0}, openai.BadRequestError, "temperature"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs"),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "colour"),
    ],
)
def test_wrong_requests_raise_the_clients_own_errors(
    client: openai.OpenAI, server: Served, change: dict[str, object], error: type[openai.APIStatusError], param: str
) -> None:
    """Each refusal arrives as the client's typed error and names the field."""
    request = {"model": server.model, "messages": [{"role": "user", "content": "Hello"}], **change}

    with pytest.raises(error) as raised:
        client.chat.completions.create(**request)  # type: ignore[call-overload]

    assert raised.value.param == param  # type: ignore[attr-defined]


def test_client_that_leaves_frees_its_row(client: openai.OpenAI, server: Served) -> None:
    """Closing a stream early frees the row: the running gauge is back at 0 and the next request is answered."""
    stream = client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": "Tell me a long story about a ship"}], stream=True
    )
    next(iter(stream))
    stream.close()

    answer = client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": SPAIN[0]}], temperature=0)
    assert answer.choices[0].message.content == SPAIN[1]
