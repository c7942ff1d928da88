"""MLflow's forms to requests, answers to MLflow's shapes."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilothouse.errors import InvalidRequest, PilothouseError, Unsupported, UnsupportedMedia
from pilothouse.messages import Answer, ChatRequest, Choice, FinishReason, Message, TokenLogprob, ToolCall, Usage
from pilothouse.protocols.invocations import Invocation, answer, invocation
from pilothouse.protocols.limits import Limits
from pilothouse.settings import Settings

ASK = [{"role": "user", "content": "Hi"}]
HI = ChatRequest(messages=(Message("user", "Hi"),))
A, B = ChatRequest(prompt="a"), ChatRequest(prompt="b")
JSON, CSV = "application/json", "text/csv"


def asked(body: Any, limits: Limits) -> Invocation:
    return invocation(json.dumps(body).encode(), JSON, limits)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt": "a"}, (A,)),
        ({"prompt": ["a", "b"]}, (A, B)),
        ({"inputs": "a"}, (A,)),
        ({"inputs": ["a", "b"]}, (A, B)),
        ({"inputs": {"prompt": "a"}}, (A,)),
        ({"inputs": {"prompt": ["a", "b"]}}, (A, B)),
        ({"inputs": [{"prompt": "a"}, {"prompt": "b"}]}, (A, B)),
        ({"inputs": {"messages": ASK}}, (HI,)),
        ({"inputs": {"messages": [ASK, ASK]}}, (HI, HI)),
        ({"inputs": [{"messages": ASK}]}, (HI,)),
        ({"instances": ["a", "b"]}, (A, B)),
        ({"instances": {"prompt": "a"}}, (A,)),
        ({"instances": [{"prompt": "a"}, {"prompt": "b"}]}, (A, B)),
        ({"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}]}, (A, B)),
        ({"dataframe_records": [{"messages": ASK}]}, (HI,)),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a"], ["b"]]}}, (A, B)),
        ({"dataframe_split": {"index": [3, 4], "columns": ["prompt"], "data": [["a"], ["b"]]}}, (A, B)),
        ({"dataframe_split": {"columns": ["messages", "max_tokens"], "data": [[ASK, None]]}}, (HI,)),
        ({"inputs": None, "prompt": "a", "params": None}, (A,)),
        ({"inputs": [{"messages": ASK}], "params": {"echo": None, "seed": None}}, (HI,)),
        ({"dataframe_records": [{"prompt": "a", "messages": None}, {"prompt": None, "messages": ASK}]}, (A, HI)),
    ],
)
def test_every_form_of_rows(limits: Limits, body: dict[str, Any], expected: tuple[ChatRequest, ...]) -> None:
    """What MLflow's server takes, for prompts and for conversations; null means "not sent"."""
    assert asked(body, limits) == Invocation(expected, "rows")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"prompt\na\nb\n", (A, B)),
        (b"prompt\na\n\n\nb", (A, B)),
        (b",prompt\n0,a\n1,b\n", (A, B)),
        (b"prompt,\na,0\n", (A,)),
        (b"\xef\xbb\xbfprompt\r\na\r\n", (A,)),
        (b'prompt\n"a,""b""\nc"\n', (ChatRequest(prompt='a,"b"\nc'),)),
        (b"prompt\n5\n", (ChatRequest(prompt="5"),)),
    ],
)
def test_csv(limits: Limits, raw: bytes, expected: tuple[ChatRequest, ...]) -> None:
    """As pandas writes it: with or without its index, quoted cells, text that looks like a number."""
    assert invocation(raw, "text/csv; charset=UTF-8", limits) == Invocation(expected, "rows")


def test_blank_lines_hide_no_rows(limits: Limits) -> None:
    """The bound counts rows, not lines."""
    assert len(invocation(b"prompt\n" + b"\n\n\na\n" * 64, CSV, limits).requests) == 64


def test_one_chat(limits: Limits) -> None:
    """A top-level messages body is one conversation, alone to be streamed."""
    body = {"messages": ASK, "temperature": 0.5, "max_tokens": 5, "stop": ["."], "n": 2, "stream": True}
    request = ChatRequest(messages=HI.messages, temperature=0.5, max_tokens=5, stop=(".",), n=2)

    assert asked(body, limits) == Invocation((request,), "chat", stream=True)
    assert asked({"messages": ASK}, limits) == Invocation((HI,), "chat")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"inputs": ["a", "b"], "params": {"max_tokens": 5}}, [5, 5]),
        ({"inputs": [{"prompt": "a", "max_tokens": 7}, "b"], "params": {"max_tokens": 5}}, [7, 5]),
        ({"inputs": {"prompt": ["a", "b"], "max_tokens": 7}}, [7, 7]),
        ({"prompt": ["a", "b"], "max_tokens": 7}, [7, 7]),
        ({"prompt": "a", "params": {"max_tokens": 7}}, [7]),
        ({"messages": ASK, "params": {"max_tokens": 7}}, [7]),
        ({"messages": ASK, "max_tokens": 8, "params": {"max_tokens": 7}}, [8]),
        ({"dataframe_split": {"columns": ["prompt", "max_tokens"], "data": [["a", 7], ["b", None]]}}, [7, None]),
    ],
)
def test_options_come_by_params_or_by_row(limits: Limits, body: dict[str, Any], expected: list[int | None]) -> None:
    """`params` hold for all rows; a row's own option wins."""
    assert [request.max_tokens for request in asked(body, limits).requests] == expected


FORMS = "messages, prompt, inputs, instances, dataframe_split, dataframe_records"


@pytest.mark.parametrize(
    ("body", "kind", "message", "field"),
    [
        ({}, InvalidRequest, f"the body must have exactly one of {FORMS}, and the body has none of them", "messages"),
        (
            {"inputs": ["a"], "instances": ["a"]},
            InvalidRequest,
            f"the body must have exactly one of {FORMS}, not inputs and instances",
            "instances",
        ),
        ([], InvalidRequest, "the body must be a JSON object, not a list", None),
        ({"inputs": 5}, InvalidRequest, "inputs must be a string, a list of rows or an object of columns, not an integer", "inputs"),
        ({"inputs": []}, InvalidRequest, "inputs must have at least one row", "inputs"),
        ({"inputs": ["a"] * 65}, InvalidRequest, "inputs has 65 rows; at most 64 are taken", "inputs"),
        ({"inputs": [["a"]]}, InvalidRequest, "inputs[0] must be a string or an object, not a list", "inputs[0]"),
        ({"inputs": ["a", 5]}, InvalidRequest, "inputs[1] must be a string or an object, not an integer", "inputs[1]"),
        ({"inputs": [{}]}, InvalidRequest, "inputs[0].prompt is required", "inputs[0].prompt"),
        ({"inputs": [{"prompt": 5}]}, InvalidRequest, "inputs[0].prompt must be a string, not an integer", "inputs[0].prompt"),
        ({"inputs": [""]}, InvalidRequest, "prompt must not be empty", "prompt"),
        ({"inputs": {"prompt": ["a", 5]}}, InvalidRequest, "inputs.prompt[1] must be a string, not an integer", "inputs.prompt[1]"),
        ({"inputs": {"prompt": []}}, InvalidRequest, "inputs.prompt must have at least one row", "inputs.prompt"),
        (
            {"inputs": {"messages": [5]}},
            InvalidRequest,
            "inputs.messages[0] must be a list of messages, not an integer",
            "inputs.messages[0]",
        ),
        ({"inputs": {"text": "a"}}, InvalidRequest, "inputs.prompt is required", "inputs.prompt"),
        ({"inputs": {"prompt": "a", "text": "a"}}, InvalidRequest, "inputs.text is not a known field", "inputs.text"),
        (
            {"inputs": {"prompt": "a", "messages": ASK}},
            InvalidRequest,
            "inputs.prompt is not a known field",
            "inputs.prompt",
        ),
        ({"inputs": ["a"], "max_tokens": 5}, InvalidRequest, "max_tokens is not a known field: send it within params", "max_tokens"),
        ({"inputs": ["a"], "params": []}, InvalidRequest, "params must be an object, not a list", "params"),
        ({"inputs": ["a"], "params": {"n": "2"}}, InvalidRequest, "params.n must be an integer, not a string", "params.n"),
        (
            {"inputs": ["a"], "params": {"max_length": 5}},
            InvalidRequest,
            "params.max_length is not a known field: send max_tokens, which counts the answer alone",
            "params.max_length",
        ),
        ({"inputs": ["a"], "params": {"temperature": 9}}, InvalidRequest, "temperature must be between 0 and 2, not 9.0", "temperature"),
        (
            {"prompt": "a", "temperature": 0, "params": {"temperature": 9}},
            InvalidRequest,
            "temperature must be between 0 and 2, not 9.0",
            "temperature",
        ),
        (
            {"dataframe_records": [None] * 100_000},
            InvalidRequest,
            "dataframe_records has 100000 rows; at most 64 are taken",
            "dataframe_records",
        ),
        ({"inputs": [{"prompt": "a", "n": 2}]}, Unsupported, "inputs[0].n must be 1: a row has one prediction", "inputs[0].n"),
        (
            {"inputs": [{"messages": ASK, "stream": True}]},
            Unsupported,
            "inputs[0].stream is not supported: only a top-level messages body is streamed",
            "inputs[0].stream",
        ),
        (
            {"prompt": "a", "stream": True},
            Unsupported,
            "stream is not supported: only a top-level messages body is streamed",
            "stream",
        ),
        (
            {"prompt": "a", "logprobs": 1},
            Unsupported,
            "logprobs is not supported: a prediction is text alone: ask for them over /v1/completions",
            "logprobs",
        ),
        ({"prompt": 5}, InvalidRequest, "prompt must be a string, not an integer", "prompt"),
        ({"prompt": ["a", 5]}, InvalidRequest, "prompt[1] must be a string, not an integer", "prompt[1]"),
        ({"prompt": "a", "temperature": "x"}, InvalidRequest, "temperature must be a number, not a string", "temperature"),
        ({"messages": []}, InvalidRequest, "messages must not be empty", "messages"),
        ({"messages": [ASK]}, InvalidRequest, "messages[0] must be an object, not a list", "messages[0]"),
        ({"messages": ASK, "model": "x"}, InvalidRequest, "model is not a known field", "model"),
        ({"messages": ASK, "stream": 1}, InvalidRequest, "stream must be a boolean, not an integer", "stream"),
        (
            {"messages": ASK, "custom_inputs": {"a": 1}},
            Unsupported,
            "custom_inputs is not supported: this model takes none",
            "custom_inputs",
        ),
        (
            {"messages": ASK, "max_completion_tokens": 0},
            InvalidRequest,
            "max_completion_tokens must be between 1 and 2147483647, not 0",
            "max_completion_tokens",
        ),
        (
            {"inputs": [{"messages": [{"role": "wizard", "content": "x"}]}]},
            InvalidRequest,
            "inputs[0].messages[0].role must be one of system, developer, user, assistant, tool, not 'wizard'",
            "inputs[0].messages[0].role",
        ),
        ({"dataframe_records": {}}, InvalidRequest, "dataframe_records must be a list, not an object", "dataframe_records"),
        ({"dataframe_records": ["a"]}, InvalidRequest, "dataframe_records[0] must be an object, not a string", "dataframe_records[0]"),
        ({"dataframe_split": []}, InvalidRequest, "dataframe_split must be an object, not a list", "dataframe_split"),
        ({"dataframe_split": {"data": [["a"]]}}, InvalidRequest, "dataframe_split.columns is required", "dataframe_split.columns"),
        ({"dataframe_split": {"columns": ["prompt"]}}, InvalidRequest, "dataframe_split.data is required", "dataframe_split.data"),
        (
            {"dataframe_split": {"columns": ["prompt", "prompt"], "data": [["a", "b"]]}},
            InvalidRequest,
            "dataframe_split.columns has a name twice",
            "dataframe_split.columns",
        ),
        (
            {"dataframe_split": {"columns": [5] * 1025, "data": []}},
            InvalidRequest,
            "dataframe_split.columns has 1025 columns; at most 1024 are taken",
            "dataframe_split.columns",
        ),
        (
            {"dataframe_split": {"columns": ["prompt"], "data": ["a"]}},
            InvalidRequest,
            "dataframe_split.data[0] must be a list, not a string",
            "dataframe_split.data[0]",
        ),
        (
            {"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}},
            InvalidRequest,
            "dataframe_split.data[0] has 2 cells, but there are 1 columns",
            "dataframe_split.data[0]",
        ),
        (
            {"dataframe_split": {"columns": ["prompt", "x"], "data": [["a", 1]]}},
            InvalidRequest,
            "dataframe_split.data[0].x is not a known field",
            "dataframe_split.data[0].x",
        ),
        (
            {"dataframe_split": {"columns": ["prompt"], "data": [["a"]], "dtype": 1}},
            InvalidRequest,
            "dataframe_split.dtype is not a known field",
            "dataframe_split.dtype",
        ),
    ],
)
def test_a_wrong_body_is_refused_by_field_or_row(
    limits: Limits, refusal: Callable[..., Any], body: Any, kind: type[InvalidRequest], message: str, field: str | None
) -> None:
    """Where MLflow drops or guesses, the place is named."""
    assert refusal(asked, body, limits) == (kind, message, field)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "the first line must name a column prompt"),
        (b'""\n1\n', "the first line must name a column prompt"),
        (b"text\na\n", "the column 'text' is not read here: send prompt alone"),
        (b"prompt,prompt\na,b\n", "the column 'prompt' is not read here: send prompt alone"),
        (b"prompt\n", "rows must have at least one row"),
        (b"prompt\n" + b"a\n" * 65, "rows has 65 rows; at most 64 are taken"),
        (b"prompt\na,b\n", "rows[0] has 2 cells, but there are 1 columns"),
        (b'prompt\n"a', "line 2 is not valid CSV, or has a cell of over 131072 bytes: send such as JSON"),
        (b"prompt\n" + b"a" * 131073, "line 2 is not valid CSV, or has a cell of over 131072 bytes: send such as JSON"),
        (b"prompt\n\xff\n", "the body is not valid UTF-8 (at byte 7)"),
    ],
)
def test_wrong_csv_is_refused(limits: Limits, refusal: Callable[..., Any], raw: bytes, message: str) -> None:
    """By line, row or column."""
    assert refusal(invocation, raw, CSV, limits)[:2] == (InvalidRequest, message)


@pytest.mark.parametrize("content_type", ["", "application/json", "Application/JSON; charset=utf-8", 'application/json; charset="UTF-8"'])
def test_json_by_any_name(limits: Limits, content_type: str) -> None:
    """No content type at all is JSON."""
    assert invocation(b'{"prompt": "a"}', content_type, limits) == Invocation((A,), "rows")


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("text/plain", "content type 'text/plain' is not read here: send application/json or text/csv"),
        (
            "application/vnd.apache.parquet",
            "content type 'application/vnd.apache.parquet' is not read here: send application/json or text/csv",
        ),
        ("text/csv; charset=latin-1", "content type parameter 'charset=latin-1' is not read here: only charset=utf-8 is"),
    ],
)
def test_another_content_type_is_refused(limits: Limits, refusal: Callable[..., Any], content_type: str, message: str) -> None:
    """415, with the ones that are read."""
    assert refusal(invocation, b"{}", content_type, limits) == (UnsupportedMedia, message, None)


COUNTS = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
PLAIN = Answer((Choice(0, "Madrid.", FinishReason.STOP),), Usage(7, 3, 4))
OBJECT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "model": "phi3",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Madrid."}}],
    "usage": COUNTS,
}


def told(asked: Invocation, *answers: Answer) -> Any:
    return answer(asked, "chatcmpl-1", 1700000000, "phi3", answers)


def test_a_chat_is_answered_by_one_object() -> None:
    """The fields of MLflow's chat signature, and no other."""
    assert told(Invocation((HI,), "chat"), PLAIN) == OBJECT


def test_rows_are_answered_by_predictions() -> None:
    """As MLflow's server answers a pyfunc: a string for each prompt; a chat object, with its own id, for each conversation."""
    assert told(Invocation((A, B), "rows"), PLAIN, PLAIN) == {"predictions": ["Madrid.", "Madrid."]}
    assert told(Invocation((HI,), "rows"), PLAIN) == {"predictions": [OBJECT]}
    assert [one["id"] for one in told(Invocation((HI, HI), "rows"), PLAIN, PLAIN)["predictions"]] == ["chatcmpl-1-0", "chatcmpl-1-1"]


def test_what_was_asked_for_beside_the_text_is_there() -> None:
    """Tool calls and log-probabilities, in OpenAI's shape, only where there are any."""
    calls = Answer((Choice(0, "", FinishReason.TOOL_CALLS, tool_calls=(ToolCall("c1", "f", "{}"),)),), Usage(1, 1))
    scored = Answer((Choice(0, "x", FinishReason.STOP, logprobs=(TokenLogprob("x", 1, -1.0, b"x"),)),), Usage(1, 1))

    assert told(Invocation((HI,), "chat"), calls)["choices"][0] == {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
    }
    assert told(Invocation((HI,), "chat"), scored)["choices"][0]["logprobs"]["content"][0]["logprob"] == -1.0


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(ASK),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["prompt", "messages", "columns", "data", "n", "stop", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    body=st.dictionaries(
        st.sampled_from(["messages", "prompt", "inputs", "instances", "dataframe_split", "dataframe_records", "params", "stream", "n"]),
        VALUES,
        max_size=3,
    )
)
def test_any_json_is_an_invocation_or_a_typed_refusal(body: dict[str, Any]) -> None:
    """Never another exception, which would be a 500."""
    limits = Limits.from_settings(Settings(), vocabulary=1000)
    try:
        found = asked(body, limits)
    except PilothouseError:
        return

    assert all(isinstance(one, ChatRequest) for one in found.requests)


@settings(max_examples=200, deadline=None)
@given(raw=st.binary(max_size=60) | st.text(alphabet='prompt,"\n\r a', max_size=40).map(lambda rest: b"prompt\n" + rest.encode()))
def test_any_csv_is_an_invocation_or_a_typed_refusal(raw: bytes) -> None:
    """Whatever stands in the file."""
    limits = Limits.from_settings(Settings(), vocabulary=1000)
    try:
        found = invocation(raw, CSV, limits)
    except PilothouseError:
        return

    assert all(isinstance(one.prompt, str) for one in found.requests)
