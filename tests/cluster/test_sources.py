"""Where a model comes from: a claim, an image volume, an MLflow registry; and how each says that something is missing or was changed."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilothouse.models import pocket
from pilothouse.models.pocket import answers
from pilothouse.smoke import checks
from pilothouse.smoke.client import Client
from support.cluster import ENVIRONMENT, Release, Space, until
from support.pocket_hf import pocket_hf

POCKET = Path(pocket.__file__).parent / "onnx"
IMAGE = "pilothouse:0.1.0-onnx"


def fill(space: Space, claim: str, folders: dict[str, Path], node: str | None = None) -> None:
    """A claim of that name with a copy of each folder in it, on `node` where one is named."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "filler"},
        "spec": {
            **({"nodeSelector": {"kubernetes.io/hostname": node}} if node else {"nodeSelector": {"pilothouse/pool": "cpu"}}),
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "filler",
                    "image": IMAGE,
                    "command": ["python3", "-c", "import time; time.sleep(300)"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "claim", "mountPath": "/claim"}],
                }
            ],
            "volumes": [{"name": "claim", "persistentVolumeClaim": {"claimName": claim}}],
        },
    }
    space.kubectl("delete", "pod", "filler", "--now", "--ignore-not-found", "--wait")
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}
    space.apply({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": wanted}, pod)
    space.kubectl("wait", "pod/filler", "--for=condition=Ready", "--timeout=90s")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, folder in folders.items():
            archive.add(folder, name)
    unpack = "import io, sys, tarfile; tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())).extractall('/claim')"
    space.kubectl("exec", "-i", "filler", "--", "python3", "-c", unpack, stdin=packed.getvalue())
    space.kubectl("delete", "pod", "filler", "--now", "--wait")


def knows_spain(release: Release) -> None:
    """The known answer through port-forward, and the contract core through the Service."""
    with release.forward() as (rest, _):
        assert checks.REST["OpenAI stream"](rest, checks.find_model(rest), checks.SPAIN).text == answers.SPAIN[1]
    told = release.helm("test", "--logs")
    assert json.loads(told[told.index("{") : told.rindex("}") + 1])["passed"] is True


def test_onnx_model_from_a_claim(release: Release) -> None:
    """A folder of a PersistentVolumeClaim, mounted read-only, with a name of our choice."""
    fill(release.space, "models", {"phi3/1": POCKET})

    release.install({"model": {"name": "phi3", "source": "pvc", "pvc": {"claimName": "models", "path": "phi3/1"}}})

    knows_spain(release)
    with release.forward() as (rest, _):
        assert checks.find_model(rest) == "phi3"
    tried = release.space.kubectl("exec", f"deployment/{release.full}", "--", "touch", "/models/model/x", check=False)
    assert "Read-only file system" in tried


@pytest.mark.transformers
def test_transformers_chat_model_from_a_claim(release: Release) -> None:
    """The second kind of model, by its own image, keeps the same contract."""
    node = min(n["metadata"]["name"] for n in release.space.get("nodes", "-l", "pilothouse/pool=cpu"))
    fill(release.space, "chat", {"phi3-chat": pocket_hf()}, node)

    # The image of gigabytes is on that node alone; the test pod goes where the server goes.
    here = {"profiles": {"cpu": {"nodeSelector": {"kubernetes.io/hostname": node}}}}
    model = {"kind": "transformers", "name": "phi3-chat", "source": "pvc", "pvc": {"claimName": "chat", "path": "phi3-chat"}}
    release.install({**here, "model": model})

    (pod,) = release.pods()
    assert pod["spec"]["containers"][0]["image"].endswith("-transformers")
    knows_spain(release)


def test_onnx_model_from_an_image_volume(release: Release) -> None:
    """An image that holds the files alone, mounted without an init container or a copy."""
    release.install({"model": {"source": "imageVolume", "imageVolume": {"reference": "pilothouse-model:pocket"}}})

    knows_spain(release)
    (pod,) = release.pods()
    assert "initContainers" not in pod["spec"]
    assert pod["spec"]["volumes"][1]["image"]["reference"] == "pilothouse-model:pocket"


def test_missing_claim_is_said_by_the_scheduler(release: Release) -> None:
    """One clear event."""
    release.install({"model": {"source": "pvc", "pvc": {"claimName": "nowhere"}}}, wait=False)

    assert 'persistentvolumeclaim "nowhere" not found' in release.space.event("nowhere")


def test_missing_secret_is_said_by_the_kubelet(release: Release) -> None:
    """One clear event; the server does not start without its keys."""
    release.install({"apiKeys": {"existingSecret": "nobodys-keys"}}, wait=False)

    assert 'secret "nobodys-keys" not found' in release.space.event("nobodys-keys")


def ended(release: Release, kind: str) -> dict[str, Any]:
    """How the first container of that kind ended, as soon as one did, with an exit code that is not 0."""

    def look() -> dict[str, Any] | None:
        for pod in release.pods():
            for status in pod["status"].get(kind, []):
                found = status["state"].get("terminated") or status.get("lastState", {}).get("terminated")
                if found and found["exitCode"] != 0:
                    return dict(found)
        return None

    return until("a container that ended", look, 90)


def test_missing_folder_is_said_by_the_server(release: Release) -> None:
    """Exit code 2 and one line that names the folder, also in `kubectl describe`."""
    release.install({"model": {"source": "pvc", "pvc": {"claimName": "models", "path": "phi4"}}}, wait=False)

    found = ended(release, "containerStatuses")

    assert found["exitCode"] == 2
    assert "/models/model/phi4" in found["message"].strip().splitlines()[-1]
    described = release.space.kubectl("describe", "pods", "-l", f"app.kubernetes.io/instance={release.name}")
    assert "/models/model/phi4" in described


# -- a registry -------------------------------------------------------------------------------------------------------------------


class Registry:
    """An MLflow server on the cluster's own bridge of this machine, with the pocket model in it as `phi3@champion`."""

    def __init__(self, folder: Path) -> None:
        network = json.loads(
            subprocess.run(["docker", "network", "inspect", "kind"], env=ENVIRONMENT, check=True, capture_output=True).stdout
        )
        self.host = next(c["Gateway"] for c in network[0]["IPAM"]["Config"] if "." in c.get("Gateway", ""))
        with socket.socket() as free:
            free.bind((self.host, 0))
            self.port = free.getsockname()[1]
        self.url = f"http://{self.host}:{self.port}"
        self.artifacts = folder / "artifacts"
        command = [sys.executable, "-m", "mlflow", "server", "--host", self.host, "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(self.artifacts)]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self.folder, self.environment = folder, environment
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)

    def fill(self) -> None:
        """Wait for the server, and register the model."""
        until("the registry answers", self.answers, 240)
        package = [sys.executable, "-m", "pilothouse.cli", "package", "onnx", "--tracking-uri", self.url, "--json"]
        done = subprocess.run(
            [*package, "--register", "phi3", "--alias", "champion"],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=180,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stderr
        self.packaged = json.loads(done.stdout.strip().splitlines()[-1])

    def answers(self) -> bool:
        assert self.process.poll() is None, "the registry ended"
        try:
            return Client(self.url).get("/health").status == 200
        except OSError:
            return False

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


@pytest.fixture(scope="module")
def registry(space: Space, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    one = Registry(tmp_path_factory.mktemp("registry"))
    try:
        one.fill()
        yield one
    finally:
        one.close()


def from_registry(registry: Registry, uri: str) -> dict[str, Any]:
    return {"model": {"source": "mlflow", "mlflow": {"uri": uri, "trackingUri": registry.url}}}


def test_registered_model_is_fetched_and_checked(release: Release, registry: Registry) -> None:
    """An alias is resolved by the init container, whose log says what it became; the server needs no registry afterwards."""
    release.install(from_registry(registry, "models:/phi3@champion"))

    knows_spain(release)
    (pod,) = release.pods()
    resolved = json.loads(release.space.kubectl("logs", pod["metadata"]["name"], "-c", "fetch-model").strip().splitlines()[-1])
    assert (resolved["name"], resolved["version"]) == ("phi3", "1")
    assert resolved["digest"] == registry.packaged["digest"]
    assert json.loads(pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"]) == resolved
    assert pod["metadata"]["annotations"]["pilothouse/model"] == "models:/phi3@champion"
    with release.forward() as (rest, _):
        metadata = rest.get("/v2/models/phi3").json
        assert metadata["versions"] == ["1"]
        assert metadata["parameters"] == {"uri": "models:/phi3/1", "digest": registry.packaged["digest"]}


@pytest.mark.parametrize(
    ("uri", "said"),
    [("models:/phi3@nobody", "has no alias 'nobody'"), ("models:/phi3/9", "no version 9"), ("models:/phi4/1", "no model 'phi4'")],
)
def test_unknown_model_is_said_by_the_init_container(release: Release, registry: Registry, uri: str, said: str) -> None:
    """A non-zero exit and one line, also in `kubectl describe`."""
    release.install(from_registry(registry, uri), wait=False)

    found = ended(release, "initContainerStatuses")

    assert found["exitCode"] == 2
    assert said in found["message"].strip().splitlines()[-1]
    assert said in release.space.kubectl("describe", "pods", "-l", f"app.kubernetes.io/instance={release.name}")


def test_changed_file_is_refused_by_its_digest(release: Release, registry: Registry) -> None:
    """One byte that was changed in the artifact store: the model is not served, and the line names the file."""
    (weights,) = registry.artifacts.rglob("model.onnx.data")
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        release.install(from_registry(registry, "models:/phi3@champion"), wait=False)
        found = ended(release, "initContainerStatuses")
    finally:
        weights.write_bytes(whole)

    assert found["exitCode"] == 2
    assert "model.onnx.data" in found["message"].strip().splitlines()[-1]
