"""Logs a model with MLflow in the form that Pilothouse and MLflow itself both serve, and registers it.

`package_onnx` wraps a folder that onnxruntime-genai's builder exported, `package_chat` a Hugging Face folder. Each tries the model, pins its
requirements, writes the manifest of its files before they are uploaded, and tells the registry the manifest's digest.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from pilothouse.errors import ModelError
from pilothouse.models import chat, manifest, placing, pocket, pocket_chat, pretrained, registry, source, tracking

POCKET = "pocket"
"""In place of a folder: the model in the wheel."""
EXPERIMENT = "pilothouse"
ONNX_NAME = source.ARTIFACT
CHAT_NAME = "phi3-mlflow-model"
ONNX_EXAMPLE = {"prompt": "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"}
CHAT_EXAMPLE = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}]}
ONNX_DEFAULTS: Mapping[str, Any] = {"max_length": 300, "temperature": 0.2}
_PARAMS = {"max_tokens": 256, "temperature": 0.2, "top_p": 1.0, "top_k": 0}
_COPIES = 2  # of the files: one is saved, then uploaded

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a model goes: the MLflow store (None: MLFLOW_TRACKING_URI, else a SQLite file here), its experiment, and a registered name."""

    tracking_uri: str | None = None
    experiment: str = EXPERIMENT
    register: str | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        if self.register is not None and not re.fullmatch(r"[^/:@\s][^/:@]*", self.register):
            raise ModelError(f"registered name {self.register!r} must not be empty or hold / : @; choose another")
        if self.alias is not None and self.register is None:
            raise ModelError(f"alias {self.alias!r} needs a registered name; add --register NAME")
        if self.alias is not None and (
            not re.fullmatch(r"[A-Za-z0-9_-]{1,255}", self.alias) or re.fullmatch(r"latest|v\d+", self.alias, re.I)
        ):
            raise ModelError(
                f"alias {self.alias!r} is none that MLflow takes (letters, digits, - and _; not latest, not v1); choose another"
            )


@dataclass(frozen=True, slots=True)
class Packaged:
    """A logged model. `digest` is its manifest's; `files` the SHA-256 of every file; `folder` where its files lie, if on this machine."""

    run_id: str
    model_id: str
    model_uri: str
    tracking_uri: str
    digest: str
    name: str | None = None
    version: str | None = None
    alias: str | None = None
    folder: Path | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The address to serve it by: the alias, the version, or the logged model itself."""
        if self.name is None:
            return self.model_uri
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


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
    with _session(target, _size(where)) as session, _files(where) as exported:
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

        # An option that the model is configured with shows that value as its default.
        declared = [ParamSpec(n, "long" if isinstance(v, int) else "double", config.get(n, v)) for n, v in _PARAMS.items()]
        signature = ModelSignature(
            inputs=Schema([ColSpec("string", "prompt")]),
            outputs=Schema([ColSpec("string")]),
            params=cast(ParamSchema, ParamSchema(declared) if params else None),  # None is its default
        )
        session.say = say
        return session.log(
            session.flow.pyfunc,
            "python_function",
            name,
            described,
            lambda saved: _answers(session.flow, saved),
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
    ignore_own_code: bool = False,
    say: Say = lambda line: None,
) -> Packaged:
    """Log the Hugging Face folder as a chat pipeline (`llm/v1/chat`), and register it where `target` says so.

    `model_config` replaces max_tokens 256 and temperature 0.2. A folder whose config names Python of its own is refused, or loaded without
    it (`ignore_own_code`). Raises `ModelError` as `package_onnx` does.
    """
    where = _pocket_hf(say) if str(folder) == POCKET else Path(folder)
    config = chat.model_config(model_config)
    say(f"reading {where}")
    if not where.is_dir():
        raise ModelError(f"{where} is not a folder; give the folder that save_pretrained or a download made")
    pipe = chat.pipeline(where, ignore_own_code=ignore_own_code)
    if not chat.answers(pipe, CHAT_EXAMPLE["messages"]):
        raise ModelError(f"{where} loads and does not answer; check the model")
    with _session(target, _size(where)) as session:
        import mlflow.transformers

        session.say = say
        return session.log(
            mlflow.transformers,
            "transformers",
            name,
            source.describe(where) if not ignore_own_code else None,
            lambda saved: _whole_chat(where, saved),
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


class _Sealing:
    """A flavor to `Model.log` that writes the manifest between saving and uploading, which MLflow has no place for."""

    def __init__(self, flavor: ModuleType, check: Callable[[Path], object], say: Say) -> None:
        self._flavor, self._check, self._say = flavor, check, say
        self.__name__ = flavor.__name__
        self.sealed: manifest.Manifest | None = None

    def save_model(self, path: str, **kwargs: Any) -> None:
        kwargs.pop("validate_serving_input")  # told to MLflow, which would load the model once more to try it
        self._flavor.save_model(path=path, **kwargs)
        self._say("trying it")
        self._check(Path(path))
        for byte_code in Path(path).rglob("__pycache__"):
            shutil.rmtree(byte_code)
        self._say("writing the manifest")
        self.sealed = manifest.seal(Path(path))
        self._say("uploading")


class _Session:
    """An MLflow store that a model is logged to."""

    def __init__(self, flow: ModuleType, address: str, target: Target) -> None:
        self.flow, self.address, self.target = flow, address, target
        self.client = flow.MlflowClient()
        self.say: Say = lambda line: None

    def experiment(self) -> str:
        """The experiment's id; a new one in a SQLite store keeps its files beside the store."""
        found = self.client.get_experiment_by_name(self.target.experiment)
        if found is not None:
            return str(found.experiment_id)
        file = tracking.database(self.address)
        place = (file.parent / "mlruns" / re.sub(r"[^A-Za-z0-9._-]+", "-", self.target.experiment)).as_uri() if file else None
        return str(self.client.create_experiment(self.target.experiment, artifact_location=place))

    def log(
        self,
        flavor: ModuleType,
        flavor_name: str,
        name: str,
        described: source.Described | None,
        check: Callable[[Path], object],
        **kwargs: Any,
    ) -> Packaged:
        """Log with `flavor` under `name`, then register as the target says."""
        from mlflow.models import Model

        sealing = _Sealing(flavor, check, self.say)
        facts = {"architecture": described.architecture, "context_length": described.context} if described else {}
        with self.flow.start_run(experiment_id=self.experiment(), run_name=name) as run:
            info = Model.log(
                name=name,
                flavor=sealing,
                flavor_name=flavor_name,
                artifact_path=None,
                metadata={"pilothouse_name": name, **{f"pilothouse_{k}": v for k, v in facts.items()}, manifest.KEY: manifest.BLANK},
                validate_serving_input=False,
                **kwargs,
            )
        assert sealing.sealed is not None  # saved, or Model.log raised
        sealed = sealing.sealed
        self.client.set_logged_model_tags(info.model_id, {manifest.KEY: sealed.digest})
        registered = self.register(info.model_id, run.info.run_id, sealed.digest)
        location = str(self.client.get_logged_model(info.model_id).artifact_location)
        folder = registry.local(location)
        if folder is not None:
            manifest.verify(folder, expected=sealed.digest)
        return Packaged(
            run_id=run.info.run_id,
            model_id=info.model_id,
            model_uri=info.model_uri,
            tracking_uri=tracking.shown(self.address),
            digest=sealed.digest,
            name=self.target.register,
            version=registered,
            alias=self.target.alias,
            folder=folder,
            files={path: entry.sha256 for path, entry in sealed.files.items()},
        )

    def register(self, model_id: str, run_id: str, digest: str) -> str | None:
        """A new version of the registered name, with the digest as its tag and the alias on it; its number."""
        name = self.target.register
        if name is None:
            return None
        self.say(f"registering {name}")
        try:
            self.client.create_registered_model(name)
        except self.flow.exceptions.MlflowException as refusal:
            if refusal.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self.client.create_model_version(name, f"models:/{model_id}", run_id=run_id, tags={manifest.KEY: digest}, model_id=model_id)
        if self.target.alias:
            self.client.set_registered_model_alias(name, self.target.alias, made.version)
        return str(made.version)


@contextmanager
def _session(target: Target | None, size: int) -> Iterator[_Session]:
    """The store of `target`, with room for `size` bytes; what it or the disk refuses becomes a `ModelError`."""
    target = target or Target()
    address = tracking.address(target.tracking_uri)
    file = tracking.database(address)
    for place, copies in ((Path(tempfile.gettempdir()), 1), *(((file.parent, 1),) if file else ())):
        if not place.is_dir():
            raise ModelError(f"{place} is not a folder; make it, or name another store with --tracking-uri")
        free = shutil.disk_usage(place).free
        if free < size * copies:
            raise ModelError(
                f"no space for the model in {place}: {size * copies / 1e9:.1f} GB are needed and {free / 1e9:.1f} free; free some, or set TMPDIR"
            )
    with tracking.store(address) as flow:
        try:
            yield _Session(flow, address, target)
        except ModelError:
            raise
        except flow.exceptions.MlflowException as refusal:
            raise ModelError(f"the MLflow store {tracking.shown(address)} refused: {tracking.said(refusal)}") from refusal
        except OSError as error:
            raise ModelError(
                f"the model can't be written ({error.strerror or type(error).__name__}); check space and permissions"
            ) from error


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
    weights = b"".join(file.read_bytes() for file in sorted(pocket.FOLDER.glob("model.onnx*")))
    say("making the pocket model's Hugging Face form")
    return pocket_chat.make(placing.cache() / f"pocket-chat-{hashlib.sha256(weights).hexdigest()[:16]}")


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
