"""Logs a model with MLflow in the form that Pilothouse and MLflow itself both serve, and registers it.

`package_onnx` wraps a folder that onnxruntime-genai's builder exported, `package_chat` a Hugging Face folder. Each tries the model, pins its
requirements, writes the manifest of its files before they are uploaded, and tells the registry the manifest's digest.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pilothouse.errors import ModelError
from pilothouse.models import chat, logbook, placing, pocket, pocket_chat, pretrained, source, tracking
from pilothouse.models.logbook import Packaged, Say, Target

__all__ = ["Packaged", "Target", "package_chat", "package_onnx", "requirements"]

POCKET = "pocket"
"""In place of a folder: the model in the wheel."""
ONNX_NAME = source.ARTIFACT
CHAT_NAME = "phi3-mlflow-model"
ONNX_EXAMPLE = {"prompt": "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"}
CHAT_EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}]}
ONNX_DEFAULTS: Mapping[str, Any] = {"max_length": 300, "temperature": 0.2}
_PARAMS = {"max_tokens": 256, "temperature": 0.2, "top_p": 1.0, "top_k": 0}


def package_onnx(
    folder: Path | str = POCKET,
    *,
    target: Target | None = None,
    name: str = ONNX_NAME,
    model_config: Mapping[str, Any] | None = None,
    params: bool = False,
    say: Say = lambda line: None,
) -> Packaged:
    """Log the ONNX folder as a pyfunc whose code is `phi3_onnx.py`, and register it where `target` says so.

    `model_config` replaces max_length 300 and temperature 0.2; `params` declares max_tokens, temperature, top_p and top_k in the signature,
    so that MLflow's own predict takes them too. `say` gets a line a step. Raises `ModelError`: no such folder, not an export, an
    architecture that is not served, no space, no answer, or a store that does not take it.
    """
    where = pocket.FOLDER if str(folder) == POCKET else Path(folder)
    config = _onnx_config(model_config)
    say(f"reading {where}")
    if not (where / "genai_config.json").is_file():
        raise ModelError(f"{where} has no genai_config.json; give a folder that onnxruntime-genai's model builder made, or {POCKET!r}")
    described = source.describe(where)
    with logbook.session(target, where, say) as session, _files(where) as exported:
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

        # An option that the model is configured with shows that value as its default.
        declared = [ParamSpec(n, "long" if isinstance(v, int) else "double", config.get(n, v)) for n, v in _PARAMS.items()]
        signature = ModelSignature(
            inputs=Schema([ColSpec("string", "prompt")]),
            outputs=Schema([ColSpec("string")]),
            params=cast(ParamSchema, ParamSchema(declared) if params else None),  # None is its default
        )
        return session.log(
            session.flow.pyfunc,
            "python_function",
            name,
            lambda saved: _answers(session.flow, saved),
            facts={"architecture": described.architecture, "context_length": described.context},
            python_model=str(Path(__file__).with_name("phi3_onnx.py")),
            artifacts={source.ARTIFACT: str(exported)},
            model_config=config,
            signature=signature,
            input_example=ONNX_EXAMPLE,
            pip_requirements=requirements("mlflow", "onnxruntime-genai"),
        )


def package_chat(
    folder: Path | str = POCKET,
    *,
    target: Target | None = None,
    name: str = CHAT_NAME,
    model_config: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> Packaged:
    """Log the Hugging Face folder as a chat pipeline (`llm/v1/chat`), and register it where `target` says so.

    `model_config` replaces max_tokens 256 and temperature 0.2. Python that the folder's config names, as Microsoft's own does, is neither
    run nor kept: transformers' class of the same name is. Raises `ModelError` as `package_onnx` does.
    """
    where = _pocket_hf(say) if str(folder) == POCKET else Path(folder)
    config = chat.model_config(model_config)
    say(f"reading {where}")
    if not where.is_dir():
        raise ModelError(f"{where} is not a folder; give the folder that save_pretrained or a download made")
    pipe = chat.pipeline(where)
    if not chat.answers(pipe, CHAT_EXAMPLE["messages"]):
        raise ModelError(f"{where} loads and does not answer; check the model")
    with logbook.session(target, where, say) as session:
        import mlflow.transformers

        return session.log(
            mlflow.transformers,
            "transformers",
            name,
            lambda saved: _whole_chat(where, saved),
            facts={"architecture": type(pipe.model).__name__, "context_length": pipe.model.config.max_position_embeddings},
            transformers_model=pipe,
            task=chat.TASK,
            model_config=config,
            input_example=CHAT_EXAMPLE,
            pip_requirements=requirements("mlflow", "transformers", "torch", "accelerate"),
        )


def requirements(*packages: str) -> list[str]:
    """`packages` pinned to what is installed here; those that are not are left out."""
    pinned = []
    for package in packages:
        try:
            pinned.append(f"{package}=={version(package).split('+')[0]}")
        except PackageNotFoundError:
            continue
    return pinned


@contextmanager
def _files(folder: Path) -> Iterator[Path]:
    """`folder`, or a copy for a while where it is made of links, as a hub's cache is: MLflow takes files alone."""
    if not any(path.is_symlink() for path in folder.rglob("*")):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(shutil.copytree(folder, Path(scratch) / folder.name))


def _answers(flow: ModuleType, saved: Path) -> None:
    """The saved ONNX model answers with a token."""
    from pilothouse.models.phi3_onnx import Phi3OnnxModel

    described = source.describe(saved)
    model = Phi3OnnxModel()
    try:
        model.load_context(flow.pyfunc.PythonModelContext({source.ARTIFACT: str(described.folder)}, {"max_tokens": 1}))
        model.predict(None, ONNX_EXAMPLE)  # type: ignore[arg-type]  # a dict will do; the hint is MLflow's usual form
    except Exception as error:  # the library's own, of many kinds
        raise ModelError(f"the model does not answer ({type(error).__name__}: {tracking.said(error)}); export it again") from error


def _whole_chat(folder: Path, saved: Path) -> None:
    """The saved chat model is one that is served, and carries its source's licence, which MLflow looks for on a hub only."""
    pretrained.check(saved / "model", saved / "components" / "tokenizer")
    for licence in sorted(folder.glob("LICENSE*"))[:1]:
        shutil.copyfile(licence, saved / "LICENSE.txt")


def _onnx_config(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """`given` over the defaults, judged as the logged file will judge it when it is loaded."""
    flow = tracking.mlflow()
    from pilothouse.models import phi3_onnx

    try:
        return phi3_onnx.checked({**ONNX_DEFAULTS, **(given or {})}, "model_config")
    except flow.exceptions.MlflowException as refusal:
        raise ModelError(refusal.message) from None


def _pocket_hf(say: Say) -> Path:
    """The pocket model for transformers, kept: MLflow's own predict reads stop strings with the tokenizer of the folder it came from."""
    files = b"".join(file.read_bytes() for file in sorted(pocket.FOLDER.iterdir()))
    say("making the pocket model's Hugging Face form")
    return pocket_chat.make(placing.cache() / f"pocket-chat-{hashlib.sha256(files).hexdigest()[:16]}")
