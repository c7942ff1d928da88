"""OpenAI's own client over `/v1/responses`: its types, parsed strictly, its accumulators and its parsers, against a running server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel, Field

from pilothouse.models.pocket.answers import ATOM, SPAIN
from support.pocket_tools import pocket_tools
from support.serve_scripted import BREAKS
from support.server import Served, served

ROOT = Path(__file__).parents[2]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Madrid"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}


class Thing(BaseModel):
    """A shape that an answer must have."""

    kind: Literal["ship", "harbour"]
    masts: int = Field(ge=0, le=5)


@pytest.fixture
def client(server: Served) -> Iterator[openai.OpenAI]:
    """The official client with its own retries off, so that each answer is the server's first."""
    with openai.OpenAI(base_url=f"{server.rest}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def tooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """The same client of a server whose model's template has tools."""
    model = pocket_tools(tmp_path_factory.mktemp("model"))
    with served(str(model)) as running, openai.OpenAI(base_url=f"{running.rest}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_response_answers_the_known_question(client: openai.OpenAI, server: Served) -> None:
    """A unary response parses strictly into the client's own type; only `store`, which OpenAI sends too, is none of its fields."""
    raw = client.responses.with_raw_response.create(model=server.model, input=SPAIN[0], temperature=0)
    parsed = Response.model_validate_json(raw.text, strict=True)

    assert (parsed.output_text, parsed.status) == (SPAIN[1], "completed")
    assert parsed.model_extra == {"store": False}


def test_the_page_does_as_it_says(server: Served, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/responses.md's own lines answer, and go on with the answer."""
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/responses.md").read_text(), re.DOTALL)

    exec(compile(lines.replace("http://127.0.0.1:8080", server.rest), "docs/responses.md", "exec"), {})
    first, again = capsys.readouterr().out.split("\n")

    assert first == SPAIN[1]
    assert again


def test_stream_is_the_unary_response_in_pieces(client: openai.OpenAI, server: Served) -> None:
    """Joined deltas are the known text; the client's own accumulator ends with the response that the last event has."""
    with client.responses.stream(model=server.model, input=ATOM[0], temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    deltas = [event for event in events if event.type == "response.output_text.delta"]

    assert "".join(event.delta for event in deltas) == deltas[-1].snapshot == final.output_text == ATOM[1]
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    assert final.usage is not None
    assert len(deltas) > 20  # token by token, not in one piece


def test_response_is_parsed_into_a_model(client: openai.OpenAI, server: Served) -> None:
    """What a pydantic model asks for is what the answer is, whole and streamed."""
    whole = client.responses.parse(model=server.model, input="A ship", text_format=Thing, temperature=0, max_output_tokens=32)
    with client.responses.stream(model=server.model, input="A ship", text_format=Thing, temperature=0, max_output_tokens=32) as stream:
        streamed = stream.get_final_response()

    assert isinstance(whole.output_parsed, Thing)
    assert streamed.output_parsed == whole.output_parsed


def test_conversation_goes_on_with_the_responses_own_items(client: openai.OpenAI, server: Served) -> None:
    """As objects of the client's, and as they are dumped, empty fields and all."""
    first = client.responses.create(model=server.model, input=SPAIN[0], temperature=0, include=["message.output_text.logprobs"])
    asked: Any = {"role": "user", "content": SPAIN[0]}
    sent_back = [[asked, *first.output, asked], [asked, *(item.model_dump() for item in first.output), asked]]
    one, other = (client.responses.create(model=server.model, input=items, temperature=0, max_output_tokens=8) for items in sent_back)

    assert one.output_text == other.output_text
    assert one.usage is not None
    assert first.usage is not None
    assert one.usage.input_tokens > first.usage.total_tokens


def test_tools_are_called_and_answered(tooled: openai.OpenAI) -> None:
    """The call fits its function, whole and streamed, by the same names as over a chat; its output goes back beside it."""
    asked: Any = [{"role": "user", "content": "How is the weather in Oslo?"}]
    options: dict[str, Any] = {"model": "pocket-tools", "tools": [WEATHER], "temperature": 0}
    whole = tooled.responses.create(input=asked, tool_choice="required", **options)
    with tooled.responses.stream(input=asked, tool_choice={"type": "function", "name": "weather"}, **options) as stream:
        streamed = stream.get_final_response()
    nested = {"type": "function", "function": {name: WEATHER[name] for name in ("name", "description", "parameters")}}
    chat = tooled.chat.completions.create(
        model="pocket-tools",
        messages=asked,
        tools=[nested],
        tool_choice="required",
        temperature=0,
    )
    (call,) = whole.output
    assert isinstance(call, ResponseFunctionToolCall)
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Snow"}
    answer = tooled.responses.create(input=[*asked, call, output], tool_choice="none", max_output_tokens=8, **options)

    assert (call.name, call.status, json.loads(call.arguments)["city"] in ("Oslo", "Madrid")) == ("weather", "completed", True)
    assert isinstance(streamed.output[0], ResponseFunctionToolCall)
    assert (streamed.output[0].name, streamed.output[0].arguments) == (call.name, call.arguments)
    assert chat.choices[0].message.tool_calls is not None
    assert chat.choices[0].message.tool_calls[0].function.arguments == call.arguments
    assert chat.usage is not None
    assert whole.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (whole.usage.input_tokens, whole.usage.output_tokens)
    assert answer.output[0].type == "message"


@pytest.mark.parametrize(
    ("change", "error", "param"),
    [
        ({"temperature": 3.0}, openai.BadRequestError, "temperature"),
        ({"model": "gpt-9"}, openai.NotFoundError, "model"),
        ({"input": []}, openai.BadRequestError, "input"),
        ({"previous_response_id": "resp_1"}, openai.BadRequestError, "previous_response_id"),
        ({"extra_body": {"colour": "red"}}, openai.BadRequestError, "colour"),
        ({"stream": True, "max_output_tokens": 0}, openai.BadRequestError, "max_output_tokens"),
    ],
)
def test_wrong_requests_raise_the_clients_own_errors(
    client: openai.OpenAI, server: Served, change: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    """Each refusal arrives as the client's typed error and names the field."""
    with pytest.raises(error) as raised:
        client.responses.create(**{"model": server.model, "input": "Hello"} | change)

    assert raised.value.param == param


def test_broken_stream_raises_the_clients_own_error() -> None:
    """Whoever only reads deltas learns that the answer is not whole."""
    with served(scripted=True) as running, openai.OpenAI(base_url=f"{running.rest}/v1", api_key="none", max_retries=0) as client:
        stream = client.responses.create(model=running.model, input=BREAKS, stream=True)
        with pytest.raises(openai.APIError, match="the engine failed") as raised:
            list(stream)

    assert raised.value.code == "engine_failed"


def test_no_response_can_be_asked_for_again(client: openai.OpenAI, server: Served) -> None:
    """Nothing is stored: its id is found nowhere."""
    made = client.responses.create(model=server.model, input="Hello", max_output_tokens=2)

    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_client_that_leaves_frees_its_row(client: openai.OpenAI, server: Served) -> None:
    """Closing a stream early frees the row: the next request is answered."""
    stream = client.responses.create(model=server.model, input="Tell me a long story about a ship", stream=True)
    next(iter(stream))
    stream.close()

    assert client.responses.create(model=server.model, input=SPAIN[0], temperature=0).output_text == SPAIN[1]
