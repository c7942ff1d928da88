"""What a folder is: read from its MLmodel file, its genai_config.json or its config.json, and judged before anything of it is loaded.

Neither MLflow nor torch is imported, and nothing of the model runs. A `python_model` that was pickled beside ONNX files is never touched.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pilothouse.errors import ModelError
from pilothouse.messages import Defaults
from pilothouse.models import onnx_files, pretrained, reading
from pilothouse.models.manifest import REGISTERED

Kind = Literal["onnx", "transformers", "pyfunc"]

ARTIFACT = "phi3-mini-onnx"
"""The artifact key of the ONNX pyfunc."""
MARKS = ("MLmodel", "genai_config.json", "config.json")
"""A folder with one of these is a model's."""
GENAI_TYPES = frozenset({"phi3", "phi", "llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2"})
"""What the engines were written for, in onnxruntime-genai's words; `pretrained.ARCHITECTURES` has the same in transformers'."""


@dataclass(frozen=True, slots=True)
class Described:
    """A model as its files describe it."""

    kind: Kind
    root: Path  # what was given
    folder: Path  # the engine's: genai_config.json, or config.json and weights
    tokenizer_folder: Path  # tokenizer.json and the chat template
    model_name: str
    architecture: str  # phi3, Phi3ForCausalLM; of a pyfunc, the module that loads it
    version: str | None = None
    registered: str | None = None  # models:/name/version, of a folder that was fetched from a registry
    context: int | None = None  # tokens of the window
    end_ids: frozenset[int] = frozenset()
    defaults: Defaults = field(default_factory=Defaults)
    signature: Mapping[str, Any] | None = None  # inputs, outputs, params, as MLflow writes them
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what was logged with the model
    model_config: Mapping[str, Any] = field(default_factory=dict)
    model_id: str | None = None
    run_id: str | None = None
    mlflow_version: str | None = None
    pickled: bool = False  # a pyfunc whose code would come out of a pickle


def is_model(uri: str) -> bool:
    """Whether `uri` is a model's address, or a folder that looks like a model."""
    return ":/" in uri or any((Path(uri) / name).is_file() for name in MARKS)


def describe(folder: Path, *, name: str | None = None, version: str | None = None) -> Described:
    """What `folder` holds. `name` and `version` are the registry's, where it has one.

    Raises `ModelError`: not a model, broken, an architecture that is not on the list, or one that asks to run code of its own.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give a model's folder, models:/name@alias or models:/name/version")
    if (folder / "MLmodel").is_file():
        return _logged(folder, name, version)
    if (folder / "genai_config.json").is_file():
        return _onnx(folder, folder, _clean(name or folder.resolve().name), version, {})
    if (folder / "config.json").is_file():
        return _transformers(folder, folder, folder, _clean(name or folder.resolve().name), version, {})
    raise ModelError(f"{folder} has no MLmodel, genai_config.json or config.json; give the folder that does")


# -- a model that MLflow logged ----------------------------------------------------------------------------------------------------


def _logged(root: Path, name: str | None, version: str | None) -> Described:
    mlmodel = reading.mapping(reading.yaml_of(root / "MLmodel"), "MLmodel")
    flavors = reading.mapping(mlmodel.get("flavors"), "MLmodel: flavors")
    pyfunc = reading.mapping(flavors.get("python_function") or {}, "MLmodel: flavors.python_function")
    metadata = reading.mapping(mlmodel.get("metadata") or {}, "MLmodel: metadata")
    config = reading.mapping(pyfunc.get("config") or {}, "MLmodel: flavors.python_function.config")
    artifacts = reading.mapping(pyfunc.get("artifacts") or {}, "MLmodel: flavors.python_function.artifacts")
    kept, number = _registered(root)
    shown = _clean(name or kept or _own_name(root, mlmodel, metadata))
    version = version or number
    facts: dict[str, Any] = {
        "signature": _signature(mlmodel.get("signature")),
        "metadata": MappingProxyType(dict(metadata)),
        "model_config": MappingProxyType(dict(config)),
        "model_id": mlmodel.get("model_id"),
        "run_id": mlmodel.get("run_id"),
        "mlflow_version": mlmodel.get("mlflow_version"),
        "registered": f"models:/{kept}/{number}" if kept and number else None,
    }
    if ARTIFACT in artifacts:
        where = reading.mapping(artifacts[ARTIFACT], f"MLmodel: artifact {ARTIFACT}").get("path")
        return _onnx(root, reading.within(root, where, f"artifact {ARTIFACT}"), shown, version, facts)
    transformers = reading.mapping(flavors.get("transformers") or {}, "MLmodel: flavors.transformers")
    if transformers.get("task") == "text-generation":
        if "peft_adaptor" in transformers or not transformers.get("model_binary"):
            raise ModelError("MLmodel: the model's weights are not in it; log it with save_pretrained=True and its adapters merged")
        weights = reading.within(root, transformers["model_binary"], "flavors.transformers.model_binary")
        tokenizer = root / "components" / "tokenizer"
        return _transformers(root, weights, tokenizer if tokenizer.is_dir() else weights, shown, version, facts)
    if not pyfunc:
        raise ModelError(
            f"MLmodel: the model has no python_function flavor, only {', '.join(sorted(map(str, flavors))) or 'none'}; log it as a pyfunc"
        )
    loader = str(pyfunc.get("loader_module", ""))
    pickled = loader == "mlflow.pyfunc.model" or any(
        str(reading.mapping(flavor, "MLmodel: flavors").get("serialization_format", ""))
        in ("pickle", "cloudpickle", "skops")  # skops trusts what the model itself lists
        for flavor in flavors.values()
    )
    return Described(
        kind="pyfunc",
        root=root,
        folder=root,
        tokenizer_folder=root,
        model_name=shown,
        version=version,
        architecture=loader,
        pickled=pickled,
        **facts,
    )


def _registered(root: Path) -> tuple[str | None, str | None]:
    """Name and version under which the folder was fetched from a registry, in the file that MLflow itself writes into a download."""
    if not (root / REGISTERED).is_file():
        return None, None
    meta = reading.mapping(reading.yaml_of(root / REGISTERED), REGISTERED)
    name, number = meta.get("model_name"), meta.get("model_version")
    return (str(name) if name else None, str(number) if number else None)


def _own_name(root: Path, mlmodel: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The name it was logged under: packaging's, an older MLflow's artifact path, its id, or the folder's."""
    path = str(mlmodel.get("artifact_path") or "")
    plain = path if path and "/" not in path and ":" not in path else ""
    folder = root.resolve().name
    return str(metadata.get("pilothouse_name") or plain or (mlmodel.get("model_id") if folder == "artifacts" else folder) or folder)


def _signature(written: Any) -> Mapping[str, Any] | None:
    if written is None:
        return None
    signature = reading.mapping(written, "MLmodel: signature")
    try:
        return {key: json.loads(signature[key]) if signature.get(key) else None for key in ("inputs", "outputs", "params")}
    except (TypeError, ValueError):
        raise ModelError("MLmodel: its signature can't be read; log the model again") from None


# -- the two kinds of folder ------------------------------------------------------------------------------------------------------


def _onnx(root: Path, folder: Path, name: str, version: str | None, facts: Mapping[str, Any]) -> Described:
    config = folder / "genai_config.json"
    if not config.is_file():
        deeper = sorted(str(p.parent.relative_to(folder)) for p in folder.rglob("genai_config.json"))
        hint = (
            f"give one of the folders below it: {', '.join(deeper[:8])}"
            if deeper
            else "export the model with onnxruntime-genai's model builder"
        )
        raise ModelError(f"{folder} has no genai_config.json; {hint}")
    model = reading.mapping(reading.mapping(reading.json_of(config), config.name).get("model"), f"{config.name}: model")
    architecture = str(model.get("type"))
    if architecture not in GENAI_TYPES:
        raise ModelError(f"{config.name}: model.type {architecture} is not served here; the list is {', '.join(sorted(GENAI_TYPES))}")
    decoder = reading.mapping(model.get("decoder"), f"{config.name}: model.decoder")
    graph = reading.within(folder, decoder.get("filename"), f"{config.name}: model.decoder.filename", folder_wanted=False)
    if not graph.is_file():
        raise ModelError(f"{config.name}: {decoder.get('filename')} is missing; copy the whole folder")
    onnx_files.check(graph)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json; export the model again, or copy it from the original model")
    context = reading.count(model.get("context_length"), f"{config.name}: model.context_length")
    return Described(
        kind="onnx",
        root=root,
        folder=folder,
        tokenizer_folder=folder,
        model_name=name,
        version=version,
        architecture=architecture,
        context=context,
        end_ids=reading.ids(model.get("eos_token_id"), f"{config.name}: model.eos_token_id"),
        defaults=reading.defaults(facts.get("model_config", {})),
        **facts,
    )


def _transformers(root: Path, folder: Path, tokenizer: Path, name: str, version: str | None, facts: Mapping[str, Any]) -> Described:
    # A folder of the user's own may name code, as Microsoft's Phi-3 does: classes on the list are transformers' own, and the code is never
    # run. A packaged model names none, so one that does was tampered with.
    pretrained.check(folder, tokenizer, ignore_own_code=not (root / "MLmodel").is_file())
    config = reading.mapping(reading.json_of(folder / "config.json"), "config.json")
    generation = folder / "generation_config.json"
    ends = reading.mapping(reading.json_of(generation), generation.name).get("eos_token_id") if generation.is_file() else None
    return Described(
        kind="transformers",
        root=root,
        folder=folder,
        tokenizer_folder=tokenizer,
        model_name=name,
        version=version,
        architecture=config["architectures"][0],
        context=reading.count(config.get("max_position_embeddings"), "config.json: max_position_embeddings"),
        end_ids=reading.ids(config.get("eos_token_id") if ends is None else ends, "eos_token_id"),
        # MLflow's own default there is transformers': 256 new tokens.
        defaults=reading.defaults(facts.get("model_config", {})),
        **facts,
    )


def _clean(name: str) -> str:
    """`name` as a model's one name on every protocol may be spelled."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:128] or "model"
