"""What the images install is what the tests ran with, every file held by its hash."""

import re
import tomllib

import pytest

from support.chart import ROOT

REQUIREMENTS = ROOT / "runtime" / "requirements"
LOCKS = sorted(REQUIREMENTS.glob("*.txt"))


def locked(text: str) -> dict[str, tuple[str, int]]:
    """Package -> version and number of hashes."""
    found = {}
    for block in re.split(r"\n(?=[a-z])", text):
        if match := re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", block):
            found[match[1]] = (match[2], block.count("--hash=sha256:"))
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_is_held_by_hashes(path: object) -> None:
    """No line without one."""
    packages = locked((REQUIREMENTS / str(path)).read_text())

    assert packages
    assert [name for name, (_, hashes) in packages.items() if not hashes] == []


@pytest.mark.parametrize("name", ["onnx", "transformers", "torch", "operator"])
def test_versions_are_those_of_uv_lock(name: str) -> None:
    """Run scripts/lock-images after `uv lock`."""
    tested: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]:
        tested.setdefault(package["name"], set()).add(package.get("version", ""))

    packages = locked((REQUIREMENTS / f"{name}.txt").read_text())

    assert {p: version for p, (version, _) in packages.items() if p in tested and version not in tested[p]} == {}
    # mlflow-skinny is mlflow's own core: the same version as the mlflow that the tests use.
    assert {p for p in packages if p not in tested} <= {
        "mlflow-skinny",
        "databricks-sdk",
        "google-auth",
        "pyasn1",
        "pyasn1-modules",
        "setuptools",
    }


def test_onnx_image_gets_neither_torch_nor_all_of_mlflow() -> None:
    """The core of mlflow fetches models in the init container; nothing of it is imported while serving."""
    packages = locked((REQUIREMENTS / "onnx.txt").read_text())

    assert not {"torch", "transformers", "mlflow", "mlserver-mlflow"} & set(packages)
    assert "mlflow-skinny" in packages


def test_operator_image_gets_no_engine_and_no_server() -> None:
    """It asks MLflow's registry by MLflow's core, and knows nothing of what is served."""
    packages = locked((REQUIREMENTS / "operator.txt").read_text())

    assert not {"torch", "transformers", "mlflow", "mlserver", "onnxruntime", "openvino", "tokenizers"} & set(packages)
    assert {"kopf", "kubernetes", "mlflow-skinny", "prometheus-client"} <= set(packages)


def test_fastapi_and_starlette_are_lifted_past_mlservers_pins() -> None:
    """As pyproject overrides them: MLServer's own pins have known holes."""
    for name in ("onnx", "onnx-cuda", "transformers"):
        packages = locked((REQUIREMENTS / f"{name}.txt").read_text())
        assert int(packages["starlette"][0].split(".")[0]) >= 1
        assert tuple(int(part) for part in packages["fastapi"][0].split(".")[:2]) >= (0, 165)
