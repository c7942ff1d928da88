"""MLflow's scoring routes: every input form for every model, and its error shape."""

from typing import Any

import pytest

from pilothouse.smoke.checks import Target

PARAMS = {"max_tokens": 6, "temperature": 0}
MESSAGES = [{"role": "user", "content": "Hello"}]
ROWS = ["Hello", "The capital of Spain is"]


def score(target: Target, body: Any, **headers: str) -> Any:
    """The JSON of a 200."""
    reply = target.client.post("/invocations", body, {name.replace("_", "-"): value for name, value in headers.items()})
    assert reply.status == 200, reply.body
    return reply.json


@pytest.fixture(scope="module")
def expected(target: Target) -> list[str]:
    """The rows' answers over OpenAI's protocol."""
    asked = {"prompt": ROWS, **PARAMS}
    return [choice["text"] for choice in target.client.post("/v1/completions", asked).json["choices"]]


@pytest.mark.parametrize(
    "form",
    [
        {"inputs": {"prompt": ROWS}},
        {"inputs": ROWS},
        {"inputs": [{"prompt": row} for row in ROWS]},
        {"instances": ROWS},
        {"instances": [{"prompt": row} for row in ROWS]},
        {"dataframe_split": {"columns": ["prompt"], "data": [[row] for row in ROWS], "index": [0, 1]}},
        {"dataframe_records": [{"prompt": row} for row in ROWS]},
        {"prompt": ROWS},
    ],
    ids=["inputs columns", "inputs list", "inputs records", "instances list", "instances records", "split", "records", "prompt"],
)
def test_every_form_of_rows_is_answered(target: Target, expected: list[str], form: dict[str, Any]) -> None:
    """A prediction for each row, in order."""
    body = form | (PARAMS if "prompt" in form else {"params": PARAMS})

    assert score(target, body) == {"predictions": expected}


@pytest.mark.parametrize("form", [{"inputs": {"prompt": ROWS[0]}}, {"inputs": ROWS[0]}, {"inputs": [ROWS[0]]}, {"prompt": ROWS[0]}])
def test_one_prompt_is_one_prediction(target: Target, expected: list[str], form: dict[str, Any]) -> None:
    """One string, bare or in a column, is a table of one row."""
    body = form | (PARAMS if "prompt" in form else {"params": PARAMS})

    assert score(target, body) == {"predictions": expected[:1]}


def test_csv_is_a_table(target: Target) -> None:
    """text/csv with a prompt column gets a prediction for each row."""
    told = score(target, b"prompt\nHello\n", Content_Type="text/csv")

    assert [type(prediction) for prediction in told["predictions"]] == [str]


def test_chat_is_one_object(target: Target) -> None:
    """Field by field as MLflow's chat signature has it, params beside or within."""
    told = score(target, {"messages": MESSAGES, **PARAMS})
    within = score(target, {"messages": MESSAGES, "params": PARAMS})

    assert set(told) == {"id", "object", "created", "model", "choices", "usage"}
    assert (told["object"], told["model"]) == ("chat.completion", target.model)
    assert set(told["choices"][0]) == {"index", "finish_reason", "message"}
    assert set(told["choices"][0]["message"]) == {"role", "content"}
    assert set(told["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert within["choices"] == told["choices"]


@pytest.mark.parametrize(
    "form",
    [
        {"inputs": {"messages": MESSAGES}},
        {"inputs": [{"messages": MESSAGES}]},
        {"instances": [{"messages": MESSAGES}]},
        {"dataframe_records": [{"messages": MESSAGES}]},
        {"dataframe_split": {"columns": ["messages"], "data": [[MESSAGES]]}},
    ],
    ids=["columns", "inputs", "instances", "records", "split"],
)
def test_chats_in_rows_are_objects_in_predictions(target: Target, form: dict[str, Any]) -> None:
    """Each row's chat is answered by the object that it gets alone."""
    (told,) = score(target, form | {"params": PARAMS})["predictions"]

    assert told["choices"] == score(target, {"messages": MESSAGES, **PARAMS})["choices"]


def test_probes_answer_as_mlflows_do(target: Target) -> None:
    """/ping and /health answer 200 with a line feed, /version with a version."""
    for path in ("/ping", "/health"):
        reply = target.client.get(path)
        assert (reply.status, reply.body) == (200, b"\n")
    assert target.client.get("/version").body.decode().count(".") >= 2


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"columns": ["prompt"], "data": [["a"]]}, "dataframe_split"),
        ({"inputs": ["a"], "instances": ["a"]}, "instances"),
        ({"messages": MESSAGES, "inputs": ["a"]}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [7]}, "inputs[0]"),
        ({"inputs": {"text": ["a"]}}, "prompt"),
        ({"inputs": ["a"], "temperature": 0}, "params"),
        ({"inputs": ["a"], "params": {"colour": "red"}}, "params.colour"),
        ({"inputs": ["a"], "params": {"temperature": 9}}, "temperature"),
        ({"inputs": ["a"], "params": {"n": 2}}, "n"),
        ({"inputs": ["a"], "params": {"stream": True}}, "stream"),
        ({"dataframe_split": {"columns": ["prompt"], "data": [["a", "b"]]}}, "dataframe_split"),
        ({"dataframe_records": {"prompt": "a"}}, "dataframe_records"),
        ({"messages": []}, "messages"),
        ({"messages": MESSAGES, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"messages": MESSAGES, "custom_inputs": {}}, "custom_inputs"),
    ],
)
def test_wrong_body_is_bad_request_and_names_what_is_wrong(target: Target, body: dict[str, Any], named: str) -> None:
    """MLflow's error: a code of its own and a message."""
    reply = target.client.post("/invocations", body)

    assert reply.status == 400, reply.body
    assert set(reply.json) == {"error_code", "message"}
    assert reply.json["error_code"] == "BAD_REQUEST"
    assert named in reply.json["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-parquet", "application/json; charset=latin-1"])
def test_other_content_types_are_415(target: Target, content_type: str) -> None:
    """JSON and CSV are read, in UTF-8."""
    reply = target.client.post("/invocations", b"{}", {"Content-Type": content_type})

    assert reply.status == 415
    assert set(reply.json) == {"error_code", "message"}
