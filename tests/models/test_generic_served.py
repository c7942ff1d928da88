"""scikit-learn models as MLflow logs and registers them, on a running server: columns and tensors, over V2 REST, V2 gRPC and /invocations."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature

from pilothouse.models.generic import PICKLE_SWITCH
from support.server import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

HOUSES = pd.DataFrame({"rooms": [2, 3, 4, 5], "area": [50.0, 70.5, 90.0, 120.0], "city": ["Madrid", "Ávila", "Madrid", "Ávila"]})
PRICES = np.array([150.0, 120.0, 260.0, 200.0])
POINTS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 0.0]], dtype=np.float32)
CLASSES = np.array([0, 1, 0, 1])


@dataclass(frozen=True)
class Model:
    """A running server, and what the model itself says of its first two rows."""

    server: Served
    wanted: list[float]

    def invocations(self, body: dict[str, Any]) -> Any:
        return httpx.post(f"{self.server.rest}/invocations", json=body, timeout=60).json()

    def triton(self, tensors: dict[str, tuple[str, list[int], list[Any]]]) -> dict[str, Any]:
        script = str(Path(__file__).with_name("with_triton.py"))
        command = [sys.executable, script, self.server.rest.removeprefix("http://"), self.server.grpc, self.server.model]
        done = subprocess.run(command, input=json.dumps(tensors), capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))


def logged(fitted: Any, inputs: Any, name: str, store: str) -> Iterator[Model]:
    """`fitted`, logged and registered with MLflow's own call, and served by its address; pickles and models' code are allowed there."""
    import mlflow.sklearn

    answers = fitted.predict(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")  # this checkout's uv.lock is no part of the model
        mlflow.set_tracking_uri(store)
        try:
            with mlflow.start_run(experiment_id="0"):
                signature = infer_signature(inputs, answers)
                mlflow.sklearn.log_model(
                    fitted, name=name, signature=signature, registered_model_name=name, pip_requirements=["scikit-learn"]
                )
        finally:
            mlflow.set_tracking_uri(None)
    with served(f"models:/{name}/1", tracking_uri=store, allow_model_code=True, environment={PICKLE_SWITCH: "true"}) as server:
        assert server.model == name
        yield Model(server, answers[:2].tolist())


@pytest.fixture(scope="module")
def columns(store: str) -> Iterator[Model]:
    """A pipeline over whole numbers, fractions and texts."""
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    prepared = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    yield from logged(make_pipeline(prepared, LinearRegression()).fit(HOUSES, PRICES), HOUSES, "houses", store)


@pytest.fixture(scope="module")
def tensor(store: str) -> Iterator[Model]:
    """A classifier over one array of float32."""
    from sklearn.naive_bayes import GaussianNB

    yield from logged(GaussianNB().fit(POINTS, CLASSES), POINTS, "points", store)


TWO = HOUSES.iloc[:2]
COLUMNS: dict[str, tuple[str, list[int], list[Any]]] = {
    "rooms": ("INT64", [2, 1], TWO["rooms"].tolist()),
    "area": ("FP64", [2, 1], TWO["area"].tolist()),
    "city": ("BYTES", [2, 1], TWO["city"].tolist()),
}


def test_columns_are_tensors_over_v2(columns: Model) -> None:
    """One for each column with the signature's name and datatype; every way of Triton's clients gets the model's own numbers."""
    told = columns.triton(COLUMNS)
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["inputs"]] == [(n, d, [-1, 1]) for n, (d, _, _) in COLUMNS.items()]
    assert told["grpc inputs"] == [[t["name"], t["datatype"], t["shape"]] for t in told["inputs"]]
    wanted = {"dtype": "float64", "shape": [2, 1], "data": pytest.approx(columns.wanted)}
    assert [told[way] for way in ("http, binary", "http, json", "grpc")] == [wanted] * 3


def test_columns_are_frames_over_invocations(columns: Model) -> None:
    """In each form of MLflow's own server."""
    split = {"columns": list(HOUSES), "data": TWO.to_numpy().tolist()}
    bodies: list[dict[str, Any]] = [
        {"dataframe_split": split},
        {"dataframe_records": TWO.to_dict("records")},
        {"inputs": TWO.to_dict("list")},
    ]
    assert [columns.invocations(body) for body in bodies] == [{"predictions": pytest.approx(columns.wanted)}] * 3


def test_columns_that_do_not_fit_are_the_clients_error(columns: Model) -> None:
    """400 and INVALID_ARGUMENT, with the signature's columns in their sentence."""
    told = columns.triton(COLUMNS)
    sentence = "the input does not fit the model; its inputs are rooms: long, area: double, city: string"
    assert (told["http refused"], told["grpc refused"]) == (["400", sentence], ["StatusCode.INVALID_ARGUMENT", sentence])
    answer = httpx.post(f"{columns.server.rest}/invocations", json={"dataframe_records": [{"rooms": 2}]}, timeout=60)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert answer.json()["message"].endswith("its inputs are rooms: long, area: double, city: string")


def test_an_array_is_one_tensor_over_v2(tensor: Model) -> None:
    """With the signature's number format; the classes come back as whole numbers."""
    told = tensor.triton({"input-0": ("FP32", [2, 2], POINTS[:2].ravel().tolist())})
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["inputs"]] == [("input-0", "FP32", [-1, 2])]
    wanted = {"dtype": "int64", "shape": [2, 1], "data": tensor.wanted}
    assert [told[way] for way in ("http, binary", "http, json", "grpc")] == [wanted] * 3


def test_an_array_is_a_list_of_lists_over_invocations(tensor: Model) -> None:
    """Under `inputs` or `instances`."""
    rows = POINTS[:2].tolist()
    assert [tensor.invocations({form: rows}) for form in ("inputs", "instances")] == [{"predictions": tensor.wanted}] * 2
