"""scikit-learn models on a real server: columns and tensors, over V2 REST (JSON and binary), gRPC, their streams, and /invocations."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException

from pilothouse.models.generic import PICKLE_SWITCH
from support.server import Served, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")]

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1, 0, 1, 0], "place": ["x", "y", "x", "y"]})
WANTED = [4.0, 3.0]
"""Of the rows (1.5, 1, x) and (1.0, 1, y): 2a + b."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One regression, 2a + b, that wants a frame with a column of texts beside; and one that wants an array."""
    import mlflow.sklearn
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    home, wanted = tmp_path_factory.mktemp("sklearn"), FRAME["a"] * 2 + FRAME["b"]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow advises on integer columns
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        numbers = ColumnTransformer([("numbers", "passthrough", ["a", "b"])])
        columns = make_pipeline(numbers, LinearRegression()).fit(FRAME, wanted)
        mlflow.sklearn.save_model(
            columns, str(home / "columns"), signature=infer_signature(FRAME, wanted.to_numpy()), pip_requirements=["scikit-learn"]
        )
        array = FRAME[["a", "b"]].to_numpy(dtype="float32")
        tensor = LinearRegression().fit(array, wanted.to_numpy())
        mlflow.sklearn.save_model(
            tensor, str(home / "tensor"), signature=infer_signature(array, wanted.to_numpy()), pip_requirements=["scikit-learn"]
        )
    return home


@pytest.fixture(scope="module", params=["columns", "tensor"])
def server(request: pytest.FixtureRequest, folders: Path) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PICKLE_SWITCH, "true")
        with served(str(folders / request.param), allow_model_code=True) as running:
            yield running


def tensors(server: Served) -> list[tuple[str, str, np.ndarray[Any, Any]]]:
    """The same two rows as each model wants them."""
    if server.model == "tensor":
        return [("input-0", "FP32", np.array([[1.5, 1], [1.0, 1]], "float32"))]
    return [
        ("a", "FP64", np.array([[1.5], [1.0]])),
        ("b", "INT64", np.array([[1], [1]])),
        ("place", "BYTES", np.array([[b"x"], [b"y"]], dtype=object)),
    ]


def near(values: Any) -> Any:
    return pytest.approx(np.asarray(values, "float64").ravel().tolist(), abs=1e-5)


def test_metadata_is_the_signature(server: Served) -> None:
    """Names, datatypes and shapes, over REST and gRPC alike; the platform is MLflow's pyfunc."""
    told = httpx.get(f"{server.rest}/v2/models/{server.model}").json()
    assert told["platform"] == "mlflow_pyfunc"
    assert [(t["name"], t["datatype"]) for t in told["inputs"]] == [(name, kind) for name, kind, _ in tensors(server)]
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        over_grpc = client.get_model_metadata(server.model)
    assert [(t.name, t.datatype, list(t.shape)) for t in over_grpc.inputs] == [
        (t["name"], t["datatype"], t["shape"]) for t in told["inputs"]
    ]


def test_v2_over_rest_as_json(server: Served) -> None:
    """Plain numbers and texts in, one tensor out."""
    inputs = [
        {
            "name": name,
            "datatype": kind,
            "shape": list(a.shape),
            "data": [v.decode() if isinstance(v, bytes) else v for v in a.ravel().tolist()],
        }
        for name, kind, a in tensors(server)
    ]
    answer = httpx.post(f"{server.rest}/v2/models/{server.model}/infer", json={"id": "7", "inputs": inputs})
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert (answer.json()["id"], output["name"], output["datatype"], output["shape"]) == ("7", "output-0", "FP64", [2, 1])
    assert output["data"] == near(WANTED)


@pytest.mark.parametrize("binary", [True, False])
def test_v2_over_rest_as_triton_s_client_sends_it(server: Served, binary: bool) -> None:
    """Binary tensors in and out, which is its default, and JSON."""
    asked = []
    for name, kind, array in tensors(server):
        asked.append(triton_http.InferInput(name, list(array.shape), kind))
        asked[-1].set_data_from_numpy(array, binary_data=binary)
    wanted = [triton_http.InferRequestedOutput("output-0", binary_data=binary)]
    with triton_http.InferenceServerClient(server.rest.removeprefix("http://")) as client:
        assert client.infer(server.model, asked, outputs=wanted).as_numpy("output-0").ravel().tolist() == near(WANTED)


def test_v2_over_grpc(server: Served) -> None:
    """Raw contents, as Triton's client sends them."""
    asked = []
    for name, kind, array in tensors(server):
        asked.append(triton_grpc.InferInput(name, list(array.shape), kind))
        asked[-1].set_data_from_numpy(array)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.infer(server.model, asked).as_numpy("output-0").ravel().tolist() == near(WANTED)


def test_invocations_take_every_form_of_mlflow(server: Served) -> None:
    """JSON in the forms that fit the signature, and a table as CSV where it has columns."""
    rows = FRAME.assign(a=[1.5, 1.0, 0.0, 0.0], b=[1, 1, 0, 0]).head(2)
    if server.model == "tensor":
        array = rows[["a", "b"]].to_numpy().tolist()
        bodies: list[dict[str, Any]] = [{"inputs": array}, {"instances": array}]
    else:
        bodies = [
            {"dataframe_split": json.loads(rows.to_json(orient="split"))},
            {"dataframe_records": json.loads(rows.to_json(orient="records"))},
            {"inputs": {name: rows[name].tolist() for name in rows}},
            {"instances": json.loads(rows.to_json(orient="records"))},
        ]
        table = httpx.post(f"{server.rest}/invocations", content=rows.to_csv(index=False), headers={"Content-Type": "text/csv"})
        assert table.json()["predictions"] == near(WANTED)
    for body in bodies:
        answer = httpx.post(f"{server.rest}/invocations", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"] == near(WANTED)


def test_what_does_not_fit_is_400_on_every_wire(server: Served) -> None:
    """In our words; a chat is refused too, for there is nothing to chat with."""
    tensor = {"inputs": [{"name": "input-0", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}
    for path, body in (
        (f"/v2/models/{server.model}/infer", tensor),
        ("/invocations", {"inputs": {"c": [1]}}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ):
        answer = httpx.post(f"{server.rest}{path}", json=body)
        assert answer.status_code == 400, (path, answer.text)
        assert "Traceback" not in answer.text
    wrong = triton_grpc.InferInput("input-0", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), "float32"))
    with triton_grpc.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException) as refused:
        client.infer(server.model, [wrong])
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_requests_are_counted(server: Served) -> None:
    """By protocol and outcome, as those of a language model."""
    text = httpx.get(server.metrics).text
    counted = {
        line.rpartition(" ")[0] for line in text.splitlines() if line.startswith("pilothouse_requests_total") and not line.endswith(" 0.0")
    }
    assert {f'pilothouse_requests_total{{outcome="ok",protocol="{protocol}"}}' for protocol in ("v2", "grpc", "mlflow")} <= counted
