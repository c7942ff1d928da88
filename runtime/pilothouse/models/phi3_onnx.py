"""Phi-3 in ONNX form as an MLflow model, logged as code instead of as a pickle.

MLflow copies this one file into the model it logs, so it stands alone: the standard library, MLflow and onnxruntime-genai, nothing else.
`mlflow.pyfunc.load_model(uri).predict({"prompt": ...})` runs it; a server that knows better engines needs only the folder beside it.
"""

import json
import os
import threading
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, pandas  # type: ignore[attr-defined]  # MLflow's own pandas: no further dependency is named here

ARTIFACT = "phi3-mini-onnx"
MAX_LENGTH = 300  # tokens of prompt and answer together, where nothing else is said
TEMPERATURE = 0.2
LEAST_ANSWER = 256  # tokens a prompt near max_length still gets, where the context window has them
OPTIONS = ("max_length", "max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")


class Phi3OnnxModel(PythonModel):
    """One prompt a row in, one answer a row out; the artifact `phi3-mini-onnx` is a folder with a genai_config.json."""

    def load_context(self, context: Any) -> None:
        """Load the model of the artifact folder; `context.model_config` replaces the defaults of this file."""
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is imported
        import onnxruntime_genai as og

        folder = Path((context.artifacts or {}).get(ARTIFACT, ""))
        if ARTIFACT not in (context.artifacts or {}) or not (folder / "genai_config.json").is_file():
            raise _refuse(
                f"artifact {ARTIFACT!r} must be a folder with a genai_config.json; log it with artifacts={{{ARTIFACT!r}: folder}}"
            )
        settings = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        ends = settings.get("eos_token_id", [])
        self.context_length = int(settings["context_length"])
        self.defaults = checked(dict(context.model_config or {}), "model_config")
        self._og = og
        config = og.Config(str(folder))
        # The library's own guess is half of the host's cores, which a container may not have.
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads()}}}}))
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        self._ends = {*(ends if isinstance(ends, list) else [ends]), *(int(i) for i in self._tokenizer.eos_token_ids)}
        self._one_at_a_time = threading.Lock()  # rows side by side would only fight for the same cores

    def predict(self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        """Answer every prompt of `model_input`: a DataFrame or dict with `prompt`, a list of strings, or one string.

        `params` replace the defaults for this call: max_tokens (new tokens), max_length, temperature (0: greedy), top_p, top_k,
        repetition_penalty, seed. Raises `MlflowException` (INVALID_PARAMETER_VALUE) that names what is wrong.
        """
        asked = checked(dict(params or {}), "params")
        return [self._answer(prompt, asked) for prompt in prompts(model_input)]

    def _answer(self, prompt: str, asked: dict[str, Any]) -> str:
        tokens = self._tokenizer.encode(prompt)
        search = _search({**self.defaults, **asked}, asked, len(tokens), self.context_length)
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(**search)
        answer: list[int] = []
        with self._one_at_a_time:
            generator = self._og.Generator(self._model, parameters)
            generator.append_tokens(tokens)
            while not generator.is_done():
                generator.generate_next_token()
                token = int(generator.get_next_tokens()[0])
                if token in self._ends:
                    break
                answer.append(token)
        return str(self._tokenizer.decode(answer))


def prompts(model_input: Any) -> list[str]:
    """The prompts of an input, one a row. Raises `MlflowException` for anything that is not text."""
    if hasattr(model_input, "columns"):  # a DataFrame
        names = [str(name) for name in model_input.columns]
        if "prompt" not in names and len(names) != 1:
            raise _refuse(f"the input needs a column 'prompt'; it has {names}")
        column = "prompt" if "prompt" in names else model_input.columns[0]
        return prompts(list(model_input[column]))
    if isinstance(model_input, dict):
        if "prompt" not in model_input:
            raise _refuse(f"the input needs the key 'prompt'; it has {sorted(map(str, model_input))}")
        return prompts(model_input["prompt"])
    if isinstance(model_input, str):
        if not model_input:
            raise _refuse("prompt is empty; send at least one character")
        return [model_input]
    if hasattr(model_input, "tolist"):  # an array or a Series
        return prompts(model_input.tolist())
    if isinstance(model_input, list | tuple):
        if not model_input:
            raise _refuse("the input has no rows; send at least one prompt")
        # MLflow puts a list that stands for several rows into one cell.
        return [prompt for row in model_input for prompt in prompts(row)]
    raise _refuse(f"prompt must be text, one string a row, and a row is {type(model_input).__name__}")


def threads(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: the container's CPU quota (cgroup v2, then v1), rounded up, within the CPUs it may run on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((root / "cpu" / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
        except (OSError, ValueError):
            return cores
    if quota in ("max", "-1"):
        return cores
    return max(1, min(cores, -(-int(quota) // int(period))))


def _search(options: dict[str, Any], asked: dict[str, Any], prompt: int, window: int) -> dict[str, Any]:
    """The library's search options for a prompt of `prompt` tokens."""
    if prompt >= window:
        raise _refuse(f"prompt has {prompt} tokens; the context window is {window} and the answer needs at least one: shorten it")
    # What was asked for beats what was configured; a count of new tokens beats a total.
    if "max_tokens" in asked or ("max_tokens" in options and "max_length" not in asked):
        length = prompt + options["max_tokens"]
    else:
        length = max(options.get("max_length", MAX_LENGTH), prompt + LEAST_ANSWER)
    temperature = options.get("temperature", TEMPERATURE)
    search: dict[str, Any] = {"max_length": min(length, window), "min_length": 0, "num_beams": 1, "num_return_sequences": 1}
    # Set for each request: the exported folder says do_sample false, whatever the temperature.
    if temperature > 0:
        search |= {"do_sample": True, "temperature": temperature, "top_p": options.get("top_p", 1.0), "top_k": options.get("top_k", 0)}
    else:
        search |= {"do_sample": False, "top_k": 1}
    if "repetition_penalty" in options:
        search["repetition_penalty"] = options["repetition_penalty"]
    if "seed" in options:
        search["random_seed"] = options["seed"]
    return search


def checked(options: dict[str, Any], where: str) -> dict[str, Any]:
    """`options` in bounds (the library takes a temperature of -1 without a word), absent ones left out."""
    options = {name: value.item() if hasattr(value, "item") else value for name, value in options.items() if value is not None}
    for name, value in options.items():
        if name not in OPTIONS:
            raise _refuse(f"{where}: {name!r} is not known; use {', '.join(OPTIONS)}")
        whole = name in ("max_length", "max_tokens", "top_k", "seed")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            raise _refuse(f"{where}: {name} must be a {'whole number' if whole else 'number'}, not {value!r}")
        low, high = {
            "max_length": (1, 1 << 30),
            "max_tokens": (1, 1 << 30),
            "temperature": (0, 100),
            "top_p": (1e-6, 1),
            "top_k": (0, 1 << 30),
            "repetition_penalty": (1e-3, 100),
            "seed": (0, (1 << 31) - 1),
        }[name]
        if not low <= value <= high:
            raise _refuse(f"{where}: {name} must be between {low} and {high}, not {value!r}")
    return options


def _refuse(message: str) -> MlflowException:
    return MlflowException(message, error_code=INVALID_PARAMETER_VALUE)  # a 400 of MLflow's own server


mlflow.models.set_model(Phi3OnnxModel())
