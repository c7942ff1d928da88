"""The same bodies to MLflow's own scoring server and to ours: where it answers with predictions, so do we, word for word."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.errors import PilothouseError
from pilothouse.messages import Answer, Choice, FinishReason, Usage
from pilothouse.protocols.failures import MLFLOW_CODES
from pilothouse.protocols.invocations import answer, invocation
from pilothouse.protocols.limits import Limits

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # MLflow's own warnings

MODEL = """
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

class Echo(PythonModel):
    def predict(self, context, model_input, params=None):
        return ["re: " + prompt for prompt in model_input["prompt"]]

set_model(Echo())
"""


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """MLflow's scoring server over a pyfunc with the ONNX model's signature."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.pyfunc.scoring_server import init
    from mlflow.types import ColSpec, DataType, Schema
    from starlette.testclient import TestClient

    folder = tmp_path_factory.mktemp("mlflow")
    code = folder / "model.py"
    code.write_text(MODEL)
    signature = ModelSignature(inputs=Schema([ColSpec(DataType.string, "prompt")]), outputs=Schema([ColSpec(DataType.string)]))
    mlflow.pyfunc.save_model(folder / "saved", python_model=str(code), signature=signature, pip_requirements=["mlflow"])
    with TestClient(init(mlflow.pyfunc.load_model(str(Path(folder) / "saved")))) as client:
        yield client


def ours(raw: bytes, content_type: str, limits: Limits) -> Any:
    asked = invocation(raw, content_type, limits)
    answers = [Answer((Choice(0, f"re: {one.prompt}", FinishReason.STOP),), Usage(1, 1)) for one in asked.requests]
    return answer(asked, "i", 1, "m", answers)


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"prompt": "a"}},
        {"inputs": {"prompt": ["a", "b"]}},
        {"inputs": ["a", "b"]},
        {"inputs": [{"prompt": "a"}, {"prompt": "b"}]},
        {"instances": ["a", "b"]},
        {"instances": {"prompt": "a"}},
        {"instances": [{"prompt": "a"}, {"prompt": "b"}]},
        {"dataframe_split": {"columns": ["prompt"], "data": [["a"], ["b"]]}},
        {"dataframe_split": {"columns": ["prompt"], "index": [3, 4], "data": [["a"], ["b"]]}},
        {"dataframe_records": [{"prompt": "a"}, {"prompt": "b"}]},
        {"inputs": {"prompt": ["a"]}, "params": {"temperature": 0.5}},
    ],
)
def test_json_forms_agree_with_mlflow(mlflow_client: Any, limits: Limits, body: dict[str, Any]) -> None:
    """Every form with predictions."""
    raw = json.dumps(body).encode()
    theirs = mlflow_client.post("/invocations", content=raw, headers={"content-type": "application/json"})

    assert (theirs.status_code, theirs.json()) == (200, ours(raw, "application/json", limits))


@pytest.mark.parametrize("raw", [b"prompt\na\nb\n", b",prompt\n0,a\n1,b\n", b'prompt\n"a,""b""\nc"\n', b"prompt\n5\n"])
def test_csv_agrees_with_mlflow(mlflow_client: Any, limits: Limits, raw: bytes) -> None:
    """As pandas reads it."""
    theirs = mlflow_client.post("/invocations", content=raw, headers={"content-type": "text/csv"})

    assert (theirs.status_code, theirs.json()) == (200, ours(raw, "text/csv", limits))


def test_a_top_level_prompt_is_where_we_differ(mlflow_client: Any, limits: Limits) -> None:
    """MLflow answers it by a bare list; here all rows are answered alike."""
    theirs = mlflow_client.post("/invocations", json={"prompt": "a"})

    assert theirs.json() == ["re: a"]
    assert ours(b'{"prompt": "a"}', "application/json", limits) == {"predictions": ["re: a"]}


@pytest.mark.parametrize("body", [{}, [], {"inputs": ["a"], "instances": ["a"]}, {"dataframe_records": {"prompt": ["a"]}}])
def test_refusals_agree_with_mlflow(mlflow_client: Any, limits: Limits, body: Any) -> None:
    """What it calls a bad request is one here."""
    raw = json.dumps(body).encode()
    theirs = mlflow_client.post("/invocations", content=raw, headers={"content-type": "application/json"})

    assert (theirs.status_code, theirs.json()["error_code"]) == (400, "BAD_REQUEST")
    with pytest.raises(PilothouseError):
        ours(raw, "application/json", limits)


def test_error_codes_have_mlflows_status() -> None:
    """Its clients map a code back to a status."""
    from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS

    assert {status: ERROR_CODE_TO_HTTP_STATUS[code] for status, code in MLFLOW_CODES.items()} == {status: status for status in MLFLOW_CODES}
