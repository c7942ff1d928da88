"""Our kind cluster and namespaces in it. Nothing but a cluster of the name kind-pilothouse on this machine is ever touched."""

import json
import subprocess
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from support.cluster import CONTEXT, ENVIRONMENT, KUBECONFIG, Release, Space, report

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of their own age
    from kubernetes import client, config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def cluster() -> client.CoreV1Api:
    """The API of our cluster. Skips, saying so, where there is none; refuses any other."""
    if not KUBECONFIG.exists():
        pytest.skip("not run: no kind cluster of ours on this machine; scripts/kind-up makes one")
    config.load_kube_config(str(KUBECONFIG), context=CONTEXT)
    server = urlsplit(client.Configuration.get_default_copy().host)
    assert server.hostname == "127.0.0.1", f"{CONTEXT} is at {server.hostname}, not on this machine: not ours"
    answered = subprocess.run(["kubectl", "--context", CONTEXT, "version"], env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    if answered.returncode != 0:
        pytest.skip("not run: our kind cluster does not answer; scripts/kind-up makes it again")
    return client.CoreV1Api()


@pytest.fixture(scope="module")
def space(cluster: client.CoreV1Api, request: pytest.FixtureRequest) -> Iterator[Space]:
    """A namespace of this module's own, with Pod Security "restricted" enforced; gone afterwards, with what was in it."""
    name = request.module.__name__.rpartition(".")[2].replace("_", "-")
    gone = ["kubectl", "--context", CONTEXT, "delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s"]
    subprocess.run(gone, env=ENVIRONMENT, check=True, capture_output=True, timeout=150)
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    cluster.create_namespace({"metadata": {"name": name, "labels": labels}})
    failed = request.session.testsfailed
    yield Space(name)
    if request.session.testsfailed > failed:
        print(report(name))
    subprocess.run(gone, env=ENVIRONMENT, check=True, capture_output=True, timeout=150)


@pytest.fixture
def release(space: Space) -> Iterator[Release]:
    """A release that is not there yet, and is gone afterwards."""
    one = Release(space)
    yield one
    if one.name in json.dumps([found["name"] for found in json.loads(_listed(space))]):
        one.uninstall()


def _listed(space: Space) -> str:
    line = ["helm", "--kube-context", CONTEXT, "--namespace", space.name, "list", "-o", "json"]
    return subprocess.run(line, env=ENVIRONMENT, check=True, capture_output=True, text=True, timeout=60).stdout
