"""The file that MLflow logs as code, run as MLflow runs it: its class, a context, an input."""

import ast
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime_genai as og
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pilothouse.models import phi3_onnx, pocket
from pilothouse.models.phi3_onnx import Phi3OnnxModel
from pilothouse.models.pocket.answers import ATOM, SPAIN

JOKE = "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"
CAPITAL = "<|user|>What is the capital of Spain?<|end|><|assistant|>"


def context(**config: Any) -> Any:
    return SimpleNamespace(artifacts={"phi3-mini-onnx": str(pocket.FOLDER)}, model_config=config or None)


@pytest.fixture(scope="module")
def model() -> Phi3OnnxModel:
    loaded = Phi3OnnxModel()
    loaded.load_context(context())
    return loaded


def ask(model: Phi3OnnxModel, model_input: Any, **params: Any) -> list[str]:
    return model.predict(None, model_input, params or None)


def tokens(text: str) -> int:
    """How many tokens `text` has."""
    return len(og.Tokenizer(og.Model(str(pocket.FOLDER))).encode(text))


def test_the_file_imports_nothing_but_mlflow_onnxruntime_genai_and_the_standard_library() -> None:
    """It must run where no Pilothouse is installed."""
    tree = ast.parse(Path(phi3_onnx.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names == {"mlflow", "onnxruntime_genai"}


@pytest.mark.parametrize(
    "model_input",
    [
        pd.DataFrame({"prompt": [JOKE, CAPITAL]}),
        pd.DataFrame({"text": [JOKE, CAPITAL]}),
        pd.DataFrame({"prompt": [[JOKE, CAPITAL]]}),
        {"prompt": [JOKE, CAPITAL]},
        {"prompt": np.array([JOKE, CAPITAL])},
        {"prompt": pd.Series([JOKE, CAPITAL])},
        [JOKE, CAPITAL],
        [{"prompt": JOKE}, {"prompt": CAPITAL}],
        np.array([[JOKE], [CAPITAL]]),
    ],
    ids=["frame", "one column", "list in a cell", "dict", "array", "series", "list", "records", "matrix"],
)
def test_every_form_of_input_gives_one_answer_a_row(model: Phi3OnnxModel, model_input: Any) -> None:
    """Whatever MLflow or a caller makes of `{"prompt": ...}`."""
    assert ask(model, model_input) == [ATOM[1], SPAIN[1]]


def test_one_string_is_one_row(model: Phi3OnnxModel) -> None:
    """The shortest form."""
    assert ask(model, CAPITAL) == [SPAIN[1]]


def test_the_known_answers_hold_at_the_default_temperature_twenty_times_of_twenty(model: Phi3OnnxModel) -> None:
    """Temperature 0.2 samples, and the model is sure."""
    assert ask(model, [CAPITAL] * 20) == [SPAIN[1]] * 20


def test_a_temperature_samples_and_zero_is_greedy(model: Phi3OnnxModel) -> None:
    """The exported folder says do_sample false; the request decides nevertheless, and a seed repeats."""
    hot = [ask(model, CAPITAL, temperature=50.0, max_tokens=8, seed=seed)[0] for seed in (1, 1, 2)]
    assert hot[0] == hot[1]
    assert hot[0] != hot[2]
    assert ask(model, CAPITAL, temperature=0) == [SPAIN[1]]
    assert ask(model, CAPITAL, temperature=0, seed=7) == [SPAIN[1]]


def test_max_tokens_counts_the_new_tokens_and_replaces_max_length(model: Phi3OnnxModel) -> None:
    """A request's own number, also where max_length would have allowed more or less."""
    told = ask(model, CAPITAL, max_tokens=5)[0]
    assert SPAIN[1].startswith(told)
    assert told != ""
    assert tokens(told) <= 5
    assert ask(model, CAPITAL, max_tokens=4096) == [SPAIN[1]]


def test_a_prompt_near_max_length_still_gets_a_whole_answer() -> None:
    """max_length counts the prompt, and at least 256 new tokens are left where the window has them."""
    short = Phi3OnnxModel()
    short.load_context(context(max_length=5))
    assert ask(short, CAPITAL) == [SPAIN[1]]


@pytest.mark.parametrize(
    ("options", "asked", "prompt", "length"),
    [
        ({}, {}, 10, 300),
        ({}, {}, 44, 300),
        ({}, {}, 100, 356),
        ({}, {}, 4000, 4096),
        ({"max_length": 1000}, {}, 10, 1000),
        ({"max_length": 1000}, {"max_tokens": 3}, 10, 13),
        ({"max_tokens": 7}, {}, 10, 17),
        ({"max_tokens": 7}, {"max_length": 900}, 10, 900),
        ({}, {"max_tokens": 5000}, 10, 4096),
    ],
)
def test_how_long_an_answer_may_get(options: dict[str, Any], asked: dict[str, Any], prompt: int, length: int) -> None:
    """The rule, in tokens of prompt and answer, within a window of 4096."""
    assert phi3_onnx._search({**options, **asked}, asked, prompt, 4096)["max_length"] == length


def test_a_configuration_replaces_the_defaults() -> None:
    """`model_config` of the logged model, or of `load_model`."""
    configured = Phi3OnnxModel()
    configured.load_context(context(max_tokens=3, temperature=0))
    assert tokens(ask(configured, CAPITAL)[0]) <= 3
    assert ask(configured, CAPITAL, max_tokens=100) == [SPAIN[1]]


def test_no_control_token_shows_in_an_answer(model: Phi3OnnxModel) -> None:
    """Whatever is sampled, the text has no tags in it."""
    for told in ask(model, [CAPITAL] * 5, temperature=100.0, max_tokens=60):
        assert "<|" not in told


REFUSED_INPUT = [
    (None, "prompt must be text, one string a row, and a row is NoneType"),
    (3, "prompt must be text, one string a row, and a row is int"),
    ("", "prompt is empty; send at least one character"),
    ([], "the input has no rows; send at least one prompt"),
    ([1.5], "prompt must be text, one string a row, and a row is float"),
    ({"text": "x"}, "the input needs the key 'prompt'; it has ['text']"),
    (pd.DataFrame({"a": ["x"], "b": ["y"]}), "the input needs a column 'prompt'; it has ['a', 'b']"),
    (pd.DataFrame({"prompt": [1]}), "prompt must be text, one string a row, and a row is int"),
    (b"bytes", "prompt must be text, one string a row, and a row is bytes"),
]


@pytest.mark.parametrize(("model_input", "sentence"), REFUSED_INPUT)
def test_a_wrong_input_is_refused_by_name(model: Phi3OnnxModel, model_input: Any, sentence: str) -> None:
    """With the error that MLflow's server answers as 400."""
    with pytest.raises(MlflowException) as refused:
        ask(model, model_input)
    assert refused.value.message == sentence
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"


def test_a_prompt_over_the_window_is_refused_with_both_numbers(model: Phi3OnnxModel) -> None:
    """The library itself would say so less clearly, and later."""
    with pytest.raises(
        MlflowException, match=r"^prompt has \d+ tokens; the context window is 4096 and the answer needs at least one: shorten it$"
    ):
        ask(model, "word " * 5000)


REFUSED_PARAMS = [
    ({"temperature": -1}, "params: temperature must be between 0 and 100, not -1"),
    ({"temperature": math.nan}, "params: temperature must be between 0 and 100, not nan"),
    ({"temperature": "0.2"}, "params: temperature must be a number, not '0.2'"),
    ({"max_tokens": 0}, "params: max_tokens must be between 1 and 1073741824, not 0"),
    ({"max_tokens": 1.5}, "params: max_tokens must be a whole number, not 1.5"),
    ({"max_tokens": True}, "params: max_tokens must be a whole number, not True"),
    ({"top_p": 0}, "params: top_p must be between 1e-06 and 1, not 0"),
    ({"repetition_penalty": 0}, "params: repetition_penalty must be between 0.001 and 100, not 0"),
    (
        {"beams": 4},
        "params: 'beams' is not known; use max_length, max_tokens, temperature, top_p, top_k, repetition_penalty, seed",
    ),
]


@pytest.mark.parametrize(("params", "sentence"), REFUSED_PARAMS)
def test_a_parameter_out_of_bounds_is_refused_by_name(model: Phi3OnnxModel, params: dict[str, Any], sentence: str) -> None:
    """The library takes a temperature of -1 and a penalty of 0 without a word."""
    with pytest.raises(MlflowException) as refused:
        ask(model, CAPITAL, **params)
    assert refused.value.message == sentence


def test_numbers_from_numpy_and_absent_ones_are_fine(model: Phi3OnnxModel) -> None:
    """MLflow hands declared parameters on as NumPy scalars, and None for "not said"."""
    assert ask(model, CAPITAL, max_tokens=np.int64(100), temperature=np.float64(0), top_k=None) == [SPAIN[1]]


def test_an_artifact_that_is_no_export_is_refused(tmp_path: Path) -> None:
    """At load, with what to log."""
    for artifacts in ({}, {"phi3-mini-onnx": str(tmp_path)}, None):
        with pytest.raises(
            MlflowException, match=r"^artifact 'phi3-mini-onnx' must be a folder with a genai_config\.json; log it with artifacts="
        ):
            Phi3OnnxModel().load_context(SimpleNamespace(artifacts=artifacts, model_config={}))


@pytest.mark.parametrize(
    ("files", "threads"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu.max": "nonsense"}, 4),
    ],
)
def test_threads_follow_the_container_s_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], threads: int) -> None:
    """Both versions of cgroups, rounded up, within the CPUs the process may run on (four here)."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert phi3_onnx.threads(tmp_path) == threads
