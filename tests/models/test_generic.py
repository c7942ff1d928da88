"""Any other pyfunc: V2 and /invocations by its signature, over scikit-learn models and hand-written ones."""

import asyncio
import json
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from pilothouse.errors import EngineFailed, InvalidRequest, ModelError, Overloaded, UnsupportedMedia
from pilothouse.models import manifest, source
from pilothouse.models.generic import PICKLE_SWITCH, GenericModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput

    from pilothouse.models import generic_codecs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

FRAME = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [1.0, 0.0, 1.0, 0.0]})
WANTED = FRAME["a"] * 2 + FRAME["b"]


@pytest.fixture(autouse=True, scope="module")
def _switches() -> Iterator[None]:
    """scikit-learn models count as pickles in MLflow's eyes, and tests may load their own; this checkout's uv.lock is no part of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PICKLE_SWITCH, "true")
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        yield


def opened(folder: Path, **more: Any) -> GenericModel:
    model = GenericModel(source.describe(folder), allow_code=True, **more)
    model.load()
    return model


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One linear model (2a + b), logged with columns, with one tensor, or with no signature."""
    import mlflow.sklearn
    from sklearn.linear_model import LinearRegression

    home = tmp_path_factory.mktemp("linear")
    fitted = LinearRegression().fit(FRAME.to_numpy(), WANTED.to_numpy())
    signatures = {
        "columns": infer_signature(FRAME, WANTED.to_numpy()),
        "tensor": infer_signature(FRAME.to_numpy(), WANTED.to_numpy()),
        "none": None,
    }
    for name, signature in signatures.items():
        mlflow.sklearn.save_model(fitted, str(home / name), signature=signature, pip_requirements=["scikit-learn"])
    return lambda name: home / name


ECHO = '''
import mlflow, numpy as np, pandas as pd
from mlflow.pyfunc import PythonModel

class Echo(PythonModel):
    """Answers what its configuration says, in the words of Python."""

    def load_context(self, context):
        self.answer = context.model_config["answer"]

    def predict(self, context, model_input: pd.DataFrame, params=None):
        return eval(self.answer, {"np": np, "pd": pd, "x": model_input, "params": params})

mlflow.models.set_model(Echo())
'''


@pytest.fixture
def echo(tmp_path: Path) -> Callable[..., GenericModel]:
    """A pyfunc that answers the Python expression it is given."""

    def make(answer: str, signature: ModelSignature | None = None, **more: Any) -> GenericModel:
        code = tmp_path / "echo.py"
        code.write_text(ECHO)
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        mlflow.pyfunc.save_model(
            str(folder), python_model=str(code), model_config={"answer": answer}, signature=signature, pip_requirements=["mlflow"]
        )
        return opened(folder, **more)

    return make


def request(*tensors: tuple[str, str, list[int], list[Any]], **parameters: Any) -> InferenceRequest:
    return InferenceRequest(
        id="42",
        inputs=[RequestInput(name=name, datatype=datatype, shape=shape, data=data) for name, datatype, shape, data in tensors],
        parameters=Parameters(**parameters) if parameters else None,
    )


def told(response: InferenceResponse) -> list[tuple[str, str, list[int], list[Any]]]:
    """The answer's tensors; BYTES as text."""
    return [(o.name, o.datatype, o.shape, [v.decode() if isinstance(v, bytes) else v for v in o.data.root]) for o in response.outputs]


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


COLUMNS = (("a", "FP64", [2], [1.0, 2.0]), ("b", "FP64", [2, 1], [1.0, 0.0]))


async def test_columns_go_in_as_a_frame_and_the_array_comes_out(linear: Callable[[str], Path]) -> None:
    """Each column is a tensor, [n] or [n, 1]; the answer carries the request's id, the model's name and the metadata's tensor name."""
    model = opened(linear("columns"))
    response = await model.predict(request(*COLUMNS))
    assert (response.id, response.model_name) == ("42", "columns")
    name = model.tensors()[1][0].name
    assert told(response) == [(name, "FP64", [2, 1], [near(3.0), near(4.0)])]


async def test_one_tensor_goes_in_as_an_array(linear: Callable[[str], Path]) -> None:
    """Whatever the client calls it: the signature has no name for it."""
    model = opened(linear("tensor"))
    response = await model.predict(request(("x", "FP64", [2, 2], [1.0, 1.0, 2.0, 0.0])))
    assert told(response) == [("output-0", "FP64", [2, 1], [near(3.0), near(4.0)])]


async def test_a_model_without_a_signature_gets_a_frame_of_the_columns(linear: Callable[[str], Path]) -> None:
    """And has no tensors to tell in its metadata."""
    model = opened(linear("none"))
    assert model.tensors() == ([], [])
    assert told(await model.predict(request(*COLUMNS))) == [("output", "FP64", [2, 1], [near(3.0), near(4.0)])]


def test_metadata_has_the_signature_s_tensors(linear: Callable[[str], Path]) -> None:
    """Names, datatypes and shapes."""
    inputs, outputs = opened(linear("columns")).tensors()
    assert [(t.name, t.datatype, t.shape) for t in inputs] == [("a", "FP64", [-1, 1]), ("b", "FP64", [-1, 1])]
    assert [(t.name, t.datatype, t.shape) for t in outputs] == [("output-0", "FP64", [-1])]
    inputs, _ = opened(linear("tensor")).tensors()
    assert [(t.name, t.datatype, t.shape) for t in inputs] == [("input-0", "FP64", [-1, 2])]


NAMED = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 2), "p"), TensorSpec(np.dtype("int64"), (-1,), "q")]))


async def test_named_tensors_go_in_as_a_dict_and_come_out_as_one(echo: Callable[..., GenericModel]) -> None:
    """Each with its own shape and datatype."""
    model = echo("{'sum': x['p'].sum(axis=1), 'q': x['q'] + 1}", NAMED)
    response = await model.predict(request(("p", "FP32", [2, 2], [1, 2, 3, 4]), ("q", "INT64", [2], [5, 6])))
    assert told(response) == [("sum", "FP32", [2, 1], [3.0, 7.0]), ("q", "INT64", [2, 1], [6, 7])]


ANSWERS: list[tuple[str, list[tuple[str, str, list[int], list[Any]]]]] = [
    ("'one text'", [("output", "BYTES", [1, 1], ["one text"])]),
    ("['a', 'ö']", [("output", "BYTES", [2, 1], ["a", "ö"])]),
    ("[1, 2, 3]", [("output", "INT64", [3, 1], [1, 2, 3])]),
    ("[1.5, 2]", [("output", "FP64", [2, 1], [1.5, 2.0])]),
    ("3", [("output", "INT64", [1, 1], [3])]),
    ("True", [("output", "BOOL", [1, 1], [True])]),
    ("None", [("output", "BYTES", [1, 1], ["null"])]),
    ("[]", [("output", "BYTES", [0, 1], [])]),
    ("b'raw'", [("output", "BYTES", [1, 1], ["raw"])]),
    ("{'id': 'x', 'choices': [{'index': 0}]}", [("output", "BYTES", [1, 1], ['{"id": "x", "choices": [{"index": 0}]}'])]),
    ("[{'a': 1}, {'a': np.float32(2)}]", [("output", "BYTES", [2, 1], ['{"a": 1}', '{"a": 2.0}'])]),
    ("['a', 1]", [("output", "BYTES", [2, 1], ['"a"', "1"])]),
    ("np.zeros((2, 1, 2), 'float32')", [("output", "FP32", [2, 1, 2], [0.0] * 4)]),
    ("np.array(['a', 'b'])", [("output", "BYTES", [2, 1], ["a", "b"])]),
    ("np.array([['a', 'b']], dtype=object)", [("output", "BYTES", [1, 2], ["a", "b"])]),
    ("[np.array([1, 2]), np.array([3, 4])]", [("output", "INT64", [2, 2], [1, 2, 3, 4])]),
    ("[np.array([1, 2]), np.array([3])]", [("output", "BYTES", [2, 1], ["[1, 2]", "[3]"])]),
    ("pd.Series(['a', 'b'])", [("output", "BYTES", [2, 1], ["a", "b"])]),
    ("pd.Series([1, 2], name='n')", [("n", "INT64", [2, 1], [1, 2])]),
    (
        "pd.DataFrame({'text': ['a', 'b'], 'n': [1, 2], 'ok': [True, False], 7: [0.5, 1.5], 'mixed': ['a', {'b': 1}]})",
        [
            ("text", "BYTES", [2, 1], ["a", "b"]),
            ("n", "INT64", [2, 1], [1, 2]),
            ("ok", "BOOL", [2, 1], [True, False]),
            ("7", "FP64", [2, 1], [0.5, 1.5]),
            ("mixed", "BYTES", [2, 1], ['"a"', '{"b": 1}']),
        ],
    ),
    ("pd.DataFrame({'day': pd.to_datetime(['2024-01-02'])})", [("day", "BYTES", [1, 1], ["2024-01-02T00:00:00.000000"])]),
    ("__import__('scipy.sparse', fromlist=['x']).csr_matrix([[0, 1], [2, 0]])", [("output", "INT64", [2, 2], [0, 1, 2, 0])]),
]


@pytest.mark.parametrize(("expression", "tensors"), ANSWERS, ids=[a[0][:40] for a in ANSWERS])
async def test_whatever_a_pyfunc_answers_becomes_tensors(
    echo: Callable[..., GenericModel], expression: str, tensors: list[tuple[str, str, list[int], list[Any]]]
) -> None:
    """Texts, numbers, lists, dicts, frames: the stock runtime ends in a crash on most of them."""
    assert told(await echo(expression).predict(request(("x", "INT64", [1], [1])))) == tensors


TEXT = ModelSignature(inputs=Schema([ColSpec("string", "prompt")]), outputs=Schema([ColSpec("string", "text")]))


async def test_bytes_are_text_where_the_signature_says_string(echo: Callable[..., GenericModel]) -> None:
    """No content type needs to be named, and the output is named as the signature names it."""
    model = echo("[p.upper() for p in x['prompt']]", TEXT)
    assert told(await model.predict(request(("prompt", "BYTES", [2], ["a", "b"])))) == [("text", "BYTES", [2, 1], ["A", "B"])]


WITH_PARAMS = ModelSignature(inputs=Schema([ColSpec("long", "x")]), params=ParamSchema([ParamSpec("k", "long", 1)]))


async def test_declared_parameters_reach_the_model_and_others_are_refused_by_name(echo: Callable[..., GenericModel]) -> None:
    """The request's transport parameters are not for the model."""
    model = echo("[params['k']]", WITH_PARAMS)
    tensor = ("x", "INT64", [1], [1])
    assert told(await model.predict(request(tensor))) == [("output", "INT64", [1, 1], [1])]
    assert told(await model.predict(request(tensor, k=5, headers={"a": "b"}))) == [("output", "INT64", [1, 1], [5])]
    with pytest.raises(InvalidRequest) as refused:
        await model.predict(request(tensor, temperature=1))
    assert refused.value.message == "parameters: temperature is not declared by this model (it declares k)"
    assert refused.value.field == "parameters.temperature"


REFUSED = [
    ([("c", "FP64", [1], [1.0])], "inputs: c is none of this model's; send a, b"),
    ([COLUMNS[0], COLUMNS[0]], "inputs: a is sent twice"),
    ([COLUMNS[0]], "the input does not fit the model; its inputs are a: double, b: double"),
    (
        [("a", "BYTES", [1], ["x"]), ("b", "FP64", [1], [1.0])],
        "the input does not fit the model; its inputs are a: double, b: double",
    ),
    (
        [("a", "FP64", [3], [1.0]), ("b", "FP64", [1], [1.0])],
        "inputs: a FP64 [3], b FP64 [1] can't be read; this model takes a FP64 [-1, 1], b FP64 [-1, 1]: check datatype, shape and data",
    ),
]


@pytest.mark.parametrize(("tensors", "sentence"), REFUSED)
async def test_inputs_that_do_not_fit_are_refused_by_name(linear: Callable[[str], Path], tensors: list[Any], sentence: str) -> None:
    """The client's error, in our words; MLflow's own text repeats the data and stays in the log."""
    with pytest.raises(InvalidRequest) as refused:
        await opened(linear("columns")).predict(request(*tensors))
    assert refused.value.message == sentence


BODIES: list[tuple[str, str]] = [
    ('{"dataframe_split": {"columns": ["a", "b"], "data": [[1, 1], [2, 0]]}}', "application/json"),
    ('{"dataframe_records": [{"a": 1, "b": 1}, {"a": 2, "b": 0}]}', "application/json; charset=utf-8"),
    ('{"inputs": {"a": [1.0, 2.0], "b": [1.0, 0.0]}}', "application/json"),
    ('{"instances": [{"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 0.0}]}', "application/json"),
    ("a,b\n1.0,1.0\n2.0,0.0\n", "text/csv"),
]


@pytest.mark.parametrize(("body", "content_type"), BODIES)
async def test_invocations_takes_every_form_of_mlflow_s_own_server(linear: Callable[[str], Path], body: str, content_type: str) -> None:
    """And answers as that one does."""
    answer = json.loads(await opened(linear("columns")).invocations(body.encode(), content_type))
    assert answer == {"predictions": [near(3.0), near(4.0)]}


async def test_a_chat_pyfunc_gets_its_messages_unwrapped(echo: Callable[..., GenericModel]) -> None:
    """MLflow's unified form: no `predictions` around the answer."""
    model = echo("{'choices': [{'message': {'role': 'assistant', 'content': x['messages'][0]['content'][::-1]}}]}")
    body = json.dumps({"messages": [{"role": "user", "content": "abc"}]}).encode()
    answer = json.loads(await model.invocations(body, "application/json"))
    assert answer["choices"][0]["message"]["content"] == "cba"


@pytest.mark.parametrize(
    "body",
    ["", "{", "[]", "3", "{}", '{"q": 1}', '{"inputs": 1, "instances": 2}', '{"dataframe_split": 7}', '{"inputs": {"a": "x"}}', "\xff"],
)
async def test_a_body_that_mlflow_does_not_read_is_the_client_s_error(linear: Callable[[str], Path], body: str) -> None:
    """In our words, with the forms there are or the inputs that are wanted."""
    with pytest.raises(InvalidRequest, match=r"its inputs are a: double, b: double$"):
        await opened(linear("columns")).invocations(body.encode("latin-1"), "application/json")


@pytest.mark.parametrize("content_type", ["", "text/xml", "application/json; charset=latin-1", "application/json; q=1"])
async def test_a_content_type_that_is_not_read_is_refused(linear: Callable[[str], Path], content_type: str) -> None:
    """415, as MLflow's own server has it."""
    with pytest.raises(UnsupportedMedia):
        await opened(linear("columns")).invocations(b"{}", content_type)


async def test_what_the_model_s_code_raises_is_the_server_s_error_and_stays_in_the_log(
    echo: Callable[..., GenericModel], caplog: pytest.LogCaptureFixture
) -> None:
    """Over both ways in: its kind and its place, for its words may quote what was sent; none of it reaches the client."""
    model = echo("int('sec' + 'ret')")
    with caplog.at_level(logging.ERROR), pytest.raises(EngineFailed) as failed:
        await model.predict(request(("x", "INT64", [1], [1])))
    assert failed.value.message == "the engine failed; the reason is in the server's log"
    assert "ValueError" in caplog.text
    assert "in predict" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(EngineFailed):
        await model.invocations(b'{"inputs": [1]}', "application/json")


async def test_an_answer_that_can_not_be_written_is_the_server_s_error(echo: Callable[..., GenericModel]) -> None:
    """A complex number has no V2 datatype and no JSON."""
    with pytest.raises(EngineFailed, match="can't be written as V2 tensors"):
        await echo("object()").predict(request(("x", "INT64", [1], [1])))


async def test_more_calls_than_fit_are_refused_at_once_and_places_come_back(echo: Callable[..., GenericModel]) -> None:
    """One runs, one waits, the third is told to come back; the event loop stays free throughout."""
    model = echo("[1]", workers=1, queue=1)
    entered, leave = threading.Event(), threading.Event()

    def hold(data: Any, params: Any = None) -> list[int]:
        entered.set()
        assert leave.wait(30)
        return [1]

    model._model.predict = hold
    asked = request(("x", "INT64", [1], [1]))
    calls = [asyncio.create_task(model.predict(asked)) for _ in range(2)]
    await asyncio.to_thread(entered.wait, 30)
    with pytest.raises(Overloaded, match="2 requests are running or waiting"):
        await model.predict(asked)
    leave.set()
    assert [told(await call) for call in calls] == [[("output", "INT64", [1, 1], [1])]] * 2
    assert told(await model.predict(asked)) == [("output", "INT64", [1, 1], [1])]
    model.close()


def test_code_of_a_model_is_run_only_with_permission(linear: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """First the settings', then MLflow's own switch for pickles: both are off by default."""
    described = source.describe(linear("columns"))
    with pytest.raises(ModelError) as refused:
        GenericModel(described)
    assert str(refused.value) == (
        "columns is a pyfunc of its own (mlflow.sklearn), and loading it runs its code; set allow_model_code if you trust it"
    )
    monkeypatch.delenv(PICKLE_SWITCH)
    with pytest.raises(ModelError) as refused:
        GenericModel(described, allow_code=True)
    assert str(refused.value) == (
        "columns is loaded from a pickle, which can run anything; log it as models-from-code, "
        "or set MLFLOW_ALLOW_PICKLE_DESERIALIZATION=true if you trust it"
    )


def test_byte_code_beside_sealed_code_is_refused(tmp_path: Path) -> None:
    """Python would prefer it to the source that was checked."""
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: mlflow.pyfunc.loaders.code_model}}\n")
    (tmp_path / manifest.NAME).write_text("{}")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "m.cpython-311.pyc").touch()
    with pytest.raises(ModelError) as refused:
        GenericModel(source.describe(tmp_path), allow_code=True)
    assert str(refused.value) == "__pycache__/m.cpython-311.pyc is byte code that Python would run unchecked; remove it"


def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    """For the operator, in one line."""
    (tmp_path / "MLmodel").write_text("flavors: {python_function: {loader_module: no_such_module}}\n")
    model = GenericModel(source.describe(tmp_path), allow_code=True)
    with pytest.raises(
        ModelError, match=r"does not load \(ModuleNotFoundError: No module named 'no_such_module'\); install its requirements\.txt"
    ):
        model.load()


def test_transport_parameters_are_known_by_name() -> None:
    """What MLServer and tritonclient add by themselves must not be refused."""
    given = request(("x", "INT64", [1], [1]), headers={}, content_type="pd", binary_data_output=True)
    assert generic_codecs.params(given, None) is None
