"""The images as they are run: small, not root, nothing written but /tmp, nothing reported home, with a list of what is in them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pilothouse.models import pocket
from pilothouse.smoke import checks
from pilothouse.smoke.client import Client
from pilothouse.version import __version__
from support.chart import ROOT
from support.cluster import ENVIRONMENT, until

ONNX = f"pilothouse:{__version__}-onnx"
POCKET = Path(pocket.__file__).parent / "onnx"


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + ("" if check else done.stderr)


def inspect(image: str) -> dict[str, Any]:
    found = subprocess.run(["docker", "image", "inspect", image], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    if found.returncode != 0:
        pytest.skip(f"not run: no image {image} on this machine; scripts/build-images makes it")
    loaded: dict[str, Any] = json.loads(found.stdout)[0]
    return loaded


@contextmanager
def running(image: str, *options: str) -> Iterator[tuple[str, Client]]:
    """A container under the chart's restrictions, with REST on a free port of this machine; its id and a client."""
    strict = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "-p", "127.0.0.1::8080"]
    container = docker("run", "--detach", *strict, *options, image).strip()
    try:
        port = docker("port", container, "8080").strip().rpartition(":")[2]
        client = Client(f"http://127.0.0.1:{port}")

        def ready() -> bool:
            try:
                return client.get("/v2/health/ready").status == 200
            except OSError:
                return False

        until("the container is ready", ready, 90)
        yield container, client
    finally:
        docker("rm", "--force", container)


@pytest.mark.parametrize(("image", "most"), [("onnx", 700), ("transformers", 6500)])
def test_image_is_small_and_not_root(image: str, most: int) -> None:
    """Megabytes as Docker counts them; a numeric user over 10000, so that Kubernetes can see that it isn't root."""
    found = inspect(f"pilothouse:{__version__}-{image}")
    config = found["Config"]

    print(f"\npilothouse:{image} {found['Size'] / 1e6:.0f} MB")
    assert found["Size"] <= most * 1e6
    assert int(config["User"].split(":")[0]) >= 10000
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["pilothouse"]
    assert config["Cmd"] == ["serve"]
    assert set(config["ExposedPorts"]) == {"8080/tcp", "8081/tcp", "8082/tcp"}
    assert {"DO_NOT_TRACK=1", "HF_HUB_OFFLINE=1", "MLFLOW_DISABLE_TELEMETRY=true", "PILOTHOUSE_HOST=0.0.0.0"} <= set(config["Env"])
    assert config["Labels"]["org.opencontainers.image.version"] == __version__


def test_onnx_image_holds_no_torch_and_no_telemetry() -> None:
    """Neither is there to be imported."""
    inspect(ONNX)
    look = "import importlib.util as u; print([n for n in ('torch', 'transformers', 'openvino_telemetry', 'pip') if u.find_spec(n)])"

    assert docker("run", "--rm", "--network", "none", "--entrypoint", "python3", ONNX, "-c", look).strip() == "[]"


def test_onnx_image_serves_on_a_read_only_root_without_capabilities() -> None:
    """`docker run pilothouse:onnx` answers the known answer and stops cleanly when it is told to."""
    inspect(ONNX)
    with running(ONNX, "--env", "PILOTHOUSE_LAME_DUCK_SECONDS=0") as (container, client):
        assert [r.problem for r in checks.run(checks.Target(client, checks.find_model(client))) if r.problem] == []
        docker("stop", "--time", "20", container)
        state = json.loads(docker("container", "inspect", container))[0]["State"]

    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_every_image_has_a_list_of_what_is_in_it() -> None:
    """CycloneDX beside it in dist/, for exactly this image, with Python's and Debian's packages."""
    for path in sorted((ROOT / "dist").glob("pilothouse-*.cdx.json")):
        listed = json.loads(path.read_text())
        names = {component["purl"].split("@")[0] for component in listed["components"]}

        assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.6")
        image = listed["metadata"]["component"]["name"]
        library = "kopf" if image == "pilothouse:operator" else "mlserver"
        assert {"pkg:pypi/pilothouse", f"pkg:pypi/{library}", "pkg:deb/debian/libc6"} <= names
        assert image in (f"pilothouse:{kind}" for kind in ("onnx", "onnx-cuda", "transformers", "operator"))
    digest = json.loads((ROOT / "dist/pilothouse-onnx.cdx.json").read_text())["metadata"]["component"]["hashes"][0]["content"]
    assert inspect("pilothouse:onnx")["Id"] == f"sha256:{digest}"


def test_model_is_baked_in_with_its_provenance() -> None:
    """scripts/build-image --with-model: the image serves that model without being told, and its labels say where it is from."""
    inspect(ONNX)
    tag = "pilothouse:test-baked"
    subprocess.run(
        [ROOT / "scripts/build-image", "--with-model", POCKET, "--on", ONNX, "--tag", tag], check=True, capture_output=True, timeout=180
    )
    try:
        labels = inspect(tag)["Config"]["Labels"]
        assert labels["org.pilothouse.model.uri"] == str(POCKET)
        assert set(labels) >= {f"org.pilothouse.model.{name}" for name in ("uri", "name", "version", "digest")}
        with running(tag, "--env", "PILOTHOUSE_MODEL_NAME=baked") as (container, client):
            assert checks.find_model(client) == "baked"
            assert "/models/model" in docker("exec", container, "sh", "-c", "echo $PILOTHOUSE_MODEL")
    finally:
        docker("rmi", tag)
