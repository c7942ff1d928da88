"""Models are input like any other: each hostile one is refused before any code of it runs, and serving one fetches nothing.

Every hostile model here carries a tripwire, code that leaves a file where it runs, in each place from which Python or a runtime would run it.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from pilothouse import settings as settings_room
from pilothouse.errors import ModelError
from pilothouse.models import loading, manifest, pocket
from support.pocket_hf import pocket_hf

CODE = """
from pathlib import Path
Path({wire!r}).touch()
import mlflow
class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return ["echo"] * len(model_input)
mlflow.models.set_model(Echo())
"""


class Bomb:
    """Unpickling it touches a file."""

    def __init__(self, wire: Path) -> None:
        self.wire = wire

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.wire,))


@pytest.fixture
def wire(tmp_path: Path) -> Path:
    """The file that hostile code would leave."""
    return tmp_path / "tripped"


def pyfunc(folder: Path, **flavor: Any) -> Path:
    """A logged pyfunc with this flavor."""
    folder.mkdir(exist_ok=True)
    written = {
        "flavors": {"python_function": {"python_version": "3.11", **flavor}},
        "metadata": {"pilothouse_name": "guest", manifest.KEY: manifest.BLANK},
        "mlflow_version": "3.17.2",
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(written))
    return folder


def from_code(folder: Path, wire: Path) -> Path:
    """A pyfunc that was logged as code: its module trips the wire when it is imported."""
    pyfunc(folder, loader_module="mlflow.pyfunc.loaders.code_model", model_code_path="model.py", streamable=False)
    (folder / "model.py").write_text(CODE.format(wire=str(wire)))
    return folder


def pickled(folder: Path, wire: Path) -> Path:
    """A pyfunc of the old kind: its pickle trips the wire."""
    pyfunc(folder, loader_module="mlflow.pyfunc.model", python_model="python_model.pkl", cloudpickle_version="3.1.0")
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Bomb(wire)))
    return folder


def onnx_pyfunc(folder: Path) -> Path:
    """The ONNX pyfunc of the pocket model, its code and pickles trapped too."""
    pyfunc(folder, loader_module="mlflow.pyfunc.model", artifacts={"phi3-mini-onnx": {"path": "artifacts/onnx", "uri": "x"}})
    shutil.copytree(pocket.FOLDER, folder / "artifacts" / "onnx")
    return folder


def chat(folder: Path, **config: Any) -> Path:
    """A Transformers chat model, as far as it is read before torch is imported; `config` goes into its config.json."""
    pyfunc(folder, loader_module="mlflow.transformers")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["transformers"] = {"task": "text-generation", "model_binary": "model"}
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(
        json.dumps({"architectures": ["Phi3ForCausalLM"], "max_position_embeddings": 64, "eos_token_id": 2, **config})
    )
    (folder / "model" / "model.safetensors").write_bytes(b"\0")
    (folder / "model" / "tokenizer.json").write_text("{}")
    return folder


def refusal(folder: Path, **settings: Any) -> str:
    """What a start with this model says."""
    with pytest.raises(ModelError) as refused:
        loading.load(settings_room.load(model=str(folder), **settings))
    return str(refused.value)


def test_code_of_a_model_runs_only_where_it_is_allowed(tmp_path: Path, wire: Path) -> None:
    """Models-from-code: refused by the setting's name, until the setting is on."""
    folder = from_code(tmp_path / "guest", wire)
    manifest.seal(folder)
    said = refusal(folder)
    assert said.startswith("guest is a pyfunc of its own")
    assert said.endswith("set allow_model_code if you trust it")
    assert not wire.exists()

    loaded = loading.load(settings_room.load(model=str(folder), allow_model_code=True))
    loaded.close()
    assert wire.exists()


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_is_not_opened(tmp_path: Path, wire: Path, allowed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where models may bring code: that takes MLflow's own switch besides."""
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
    folder = pickled(tmp_path / "guest", wire)
    manifest.seal(folder)
    said = refusal(folder, allow_model_code=allowed)
    assert ("is loaded from a pickle" in said) is allowed
    assert not wire.exists()


def flip(file: Path) -> None:
    """Change one byte."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


TAMPERINGS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "one byte of its code": (lambda m, w: flip(m / "model.py"), "model.py is not the file that was packaged"),
    "code beside its code": (
        lambda m, w: (m / "numpy.py").write_text(CODE.format(wire=str(w))),
        "numpy.py is not in the model's manifest",
    ),
    "byte code beside its code": (
        lambda m, w: ((m / "__pycache__").mkdir(), (m / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"x")),
        "model.cpython-311.pyc is byte code that Python would run unchecked",
    ),
    "its code exchanged by a link": (
        lambda m, w: ((m / "model.py").rename(m.parent / "model.py"), (m / "model.py").symlink_to(m.parent / "model.py")),
        "model.py is a link",
    ),
    "a folder that is a link": (lambda m, w: (m / "code").symlink_to("/etc"), "code is a link"),
    "its MLmodel, to load a pickle": (
        lambda m, w: (m / "MLmodel").write_text((m / "MLmodel").read_text().replace("loaders.code_model", "model")),
        "MLmodel is not the file that was packaged",
    ),
    "its manifest taken away": (lambda m, w: (m / manifest.NAME).unlink(), f"{manifest.NAME} is missing"),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_what_was_changed_after_packaging_is_refused_before_it_runs(tmp_path: Path, wire: Path, tampering: str) -> None:
    """With permission to run the packaged code: what is checked is what runs."""
    folder = from_code(tmp_path / "guest", wire)
    manifest.seal(folder)
    change, sentence = TAMPERINGS[tampering]
    change(folder, wire)
    assert sentence in refusal(folder, allow_model_code=True)
    assert not wire.exists()


def test_one_byte_of_the_weights_is_refused(tmp_path: Path) -> None:
    """Of the ONNX file of a packaged model."""
    folder = onnx_pyfunc(tmp_path / "guest")
    manifest.seal(folder)
    weights = max((folder / "artifacts" / "onnx").iterdir(), key=lambda file: file.stat().st_size)
    flip(weights)
    assert f"artifacts/onnx/{weights.name} is not the file that was packaged" in refusal(folder)


@pytest.mark.parametrize("location", ["/etc/hostname", "../../MLmodel", "../../../../../../etc/hostname", "C:\\secrets", "a/../../b"])
@pytest.mark.parametrize("sealed", [True, False])
def test_an_onnx_file_reads_nothing_outside_its_folder(tmp_path: Path, location: str, sealed: bool) -> None:
    """`external_data` may name any file of the machine; also of a bare folder, and also where its maker sealed it so."""
    folder = onnx_pyfunc(tmp_path / "guest") if sealed else Path(shutil.copytree(pocket.FOLDER, tmp_path / "guest"))
    (file,) = folder.rglob("*.onnx")
    model = onnx.load(str(file), load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    tensor.external_data.add(key="location", value=location)
    file.write_bytes(model.SerializeToString())
    assert "lies outside the model's folder" in refusal(folder)


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines", "custom_generate"])
def test_a_packaged_model_that_asks_for_code_of_its_own_is_refused(tmp_path: Path, wire: Path, key: str) -> None:
    """transformers would import the folder's Python; whoever packages with us has taken it out, so somebody put it in."""
    folder = chat(tmp_path / "guest", **{key: {"AutoModelForCausalLM": "own.Model"}})
    (folder / "model" / "own.py").write_text(CODE.format(wire=str(wire)))
    manifest.seal(folder)
    assert f"{key} asks for Python code of the model's own, which is never run" in refusal(folder)
    assert not wire.exists()


def test_pickled_weights_are_never_opened(tmp_path: Path, wire: Path) -> None:
    """Only safetensors are; a pytorch_model.bin in their place is refused, and one beside them is left alone."""
    folder = chat(tmp_path / "guest")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(wire)))
    manifest.seal(folder)
    assert "pickled weights are never loaded" in refusal(folder)
    assert not wire.exists()


def test_an_architecture_off_the_list_is_refused(tmp_path: Path) -> None:
    """A class that transformers does not bring would have to come from somewhere."""
    folder = chat(tmp_path / "guest", architectures=["EvilForCausalLM"])
    manifest.seal(folder)
    assert "is not served here" in refusal(folder)


# -- nothing is fetched ----------------------------------------------------------------------------------------------------------------


def alone(folder: str, *settings: str) -> dict[str, Any]:
    """What tests/support/alone.py says of a model: its answer, and the packets that left."""
    inside = ["unshare", "--map-root-user", "--net"]
    if shutil.which("ip") is None or shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        assert os.environ.get("CI") != "true", "network namespaces are needed here"
        pytest.skip("no network namespaces on this machine (unshare --map-root-user --net)")
    script = Path(__file__).parents[1] / "support" / "alone.py"
    done = subprocess.run([*inside, sys.executable, str(script), folder, *settings], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


KINDS = [pytest.param("onnx"), pytest.param("transformers", marks=pytest.mark.transformers), pytest.param("pyfunc")]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_serving_a_model_sends_not_one_packet(kind: str, tmp_path: Path, wire: Path) -> None:
    """With no network at all each kind loads, answers and stops; nobody asked a hub, a registry, a telemetry host, or even for a name."""
    guest = from_code(tmp_path / "guest", wire)
    manifest.seal(guest)
    folder = {"onnx": "", "transformers": str(pocket_hf()) if kind == "transformers" else "", "pyfunc": str(guest)}[kind]
    told = alone(folder, *(["allow_model_code=true"] if kind == "pyfunc" else []))
    if kind == "pyfunc":
        assert told["answer"] == {"predictions": ["echo"]}
    else:
        assert told["answer"]["choices"][0]["message"]["content"].startswith("The capital of Spain is Madrid.")
    assert (told["packets"], told["after_one"]) == (0, 1)
