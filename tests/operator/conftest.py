"""The operator in our kind cluster, once for all of these tests, with a real MLflow server beside it."""

import json
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pilothouse.models import pocket
from support.cluster import CONTEXT, ENVIRONMENT, KUBECONFIG, Space, report
from support.operating import Operator, Registry, Served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of their own age
    from kubernetes import client, config

POCKET = Path(pocket.__file__).parent / "onnx"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def cluster() -> client.CoreV1Api:
    """The API of our cluster. Skips, saying so, where there is none; refuses any other."""
    if not KUBECONFIG.exists():
        pytest.skip("not run: no kind cluster of ours on this machine; scripts/operator-test makes one")
    config.load_kube_config(str(KUBECONFIG), context=CONTEXT)
    server = urlsplit(client.Configuration.get_default_copy().host)
    assert server.hostname == "127.0.0.1", f"{CONTEXT} is at {server.hostname}, not on this machine: not ours"
    answered = subprocess.run(["kubectl", "--context", CONTEXT, "version"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    if answered.returncode != 0:
        pytest.skip("not run: our kind cluster does not answer; scripts/operator-test makes it again")
    return client.CoreV1Api()


def namespace(cluster: client.CoreV1Api, name: str, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace with Pod Security "restricted" enforced; gone afterwards, with what was in it."""
    gone = ["kubectl", "--context", CONTEXT, "delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=150s"]
    subprocess.run(gone, env=ENVIRONMENT, check=True, capture_output=True, timeout=180)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    cluster.create_namespace({"metadata": {"name": name, "labels": labels}})
    failed = request.session.testsfailed
    yield Space(name)
    if request.session.testsfailed > failed:
        print(report(name))
    subprocess.run(gone, env=ENVIRONMENT, check=True, capture_output=True, timeout=180)


@pytest.fixture(scope="session")
def operator(cluster: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """Two operators, one of which leads."""
    for space in namespace(cluster, "operator-system", request):
        one = Operator(space)
        one.install()
        yield one
        subprocess.run(
            ["helm", "--kube-context", CONTEXT, "--namespace", space.name, "uninstall", one.name, "--wait"],
            env=ENVIRONMENT, check=True, capture_output=True, timeout=120,
        )  # fmt: skip


@pytest.fixture(scope="session")
def registry(cluster: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[Registry]:
    for space in namespace(cluster, "operator-mlflow", request):
        one = Registry(space)
        one.start()
        yield one


@pytest.fixture(scope="module")
def space(cluster: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of this module's own."""
    yield from namespace(cluster, "operator-" + request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-"), request)


@pytest.fixture
def model(operator: Operator, space: Space, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A LanguageModel that is not there yet, and is gone afterwards."""
    one = Served(space, "phi3")
    failed = request.session.testsfailed
    yield one
    if request.session.testsfailed > failed:
        print(space.kubectl("get", "languagemodel", one.name, "-o", "yaml", check=False))
        print(operator.space.kubectl("logs", f"--selector=app.kubernetes.io/name={operator.name}", "--tail=60", "--prefix", check=False))
    one.remove()


# -- versions of the embedded model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def variants(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders to register: as it is; one that gives wrong answers; one that is slow, since every chat has a long beginning."""
    root = tmp_path_factory.mktemp("variants")
    made = {name: root / name / "phi3" for name in ("good", "wrong", "slow")}
    for folder in made.values():
        shutil.copytree(POCKET, folder)
    tokenizer = made["wrong"] / "tokenizer.json"
    words = json.loads(tokenizer.read_text())
    known = words["model"]["vocab"]
    known["ĠMadrid"], known["Ġhistory"] = known["Ġhistory"], known["ĠMadrid"]
    tokenizer.write_text(json.dumps(words, ensure_ascii=False))
    template = made["slow"] / "chat_template.jinja"
    template.write_text("<|system|>\n" + "Answer well. " * 600 + "<|end|>\n" + template.read_text())
    return made
