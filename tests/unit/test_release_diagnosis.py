"""What `pilothouse doctor --release` says of a release: each trouble a line that names what to change."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pilothouse.cli import main
from pilothouse.diagnosis.finding import Finding
from pilothouse.diagnosis.release import Release, findings, quantity
from support.chart import Chart

GIB = 1 << 30


@pytest.fixture(scope="module")
def rendered() -> Callable[..., Release]:
    """A release as the chart makes it, with nodes of both pools and nothing wrong."""
    chart = Chart.found()

    def make(values: dict[str, Any] | None = None, ready: int = 1) -> Release:
        deployment = dict(chart.one("Deployment", values or {}))
        deployment["status"] = {"readyReplicas": ready}
        nodes = [{"metadata": {"labels": {"pilothouse/pool": "gpu"}}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}}]
        return Release("phi3", "models", "v1.34.3", deployments=[deployment], nodes=nodes)

    return make


def wrong(release: Release) -> list[tuple[str, str]]:
    return [(f.subject, f.text) for f in findings(release) if f.level == "wrong"]


def test_a_release_that_runs_has_nothing_wrong(rendered: Callable[..., Release]) -> None:
    """Only good lines, the pods' at the end."""
    assert findings(rendered()) == [Finding("ok", "kubernetes", "v1.34.3"), Finding("ok", "pods", "1 of 1 are ready")]


def test_a_release_of_another_namespace_is_looked_for_there(rendered: Callable[..., Release]) -> None:
    """Nothing found is said as what it mostly is."""
    assert wrong(replace(rendered(), deployments=[]))[0][1].startswith("no release of that name in namespace models")


def test_a_release_whose_deployment_was_refused_is_there(rendered: Callable[..., Release]) -> None:
    """Helm knows it, the cluster has no Deployment of it: the next install would say that the name is in use."""
    ((subject, text),) = wrong(replace(rendered(), deployments=[], status="failed"))
    assert (subject, text.startswith("the release is there (failed) and its Deployment is not: `helm -n models status phi3`")) == (
        "phi3",
        True,
    )
    assert "`helm -n models uninstall phi3`" in text


def test_an_old_kubernetes_is_named(rendered: Callable[..., Release]) -> None:
    """With the version that is needed."""
    ((_, text),) = wrong(replace(rendered(), version="v1.27.4+k3s1"))
    assert text == "v1.27.4+k3s1 is older than 1.30, which the chart's probes and hooks need: upgrade the cluster"


@pytest.mark.parametrize(
    ("nodes", "told"),
    [
        ([], "no node has the labels"),
        (
            [{"metadata": {"labels": {"gpu": "yes", "nvidia.com/gpu.present": "true"}}, "status": {"allocatable": {"cpu": "8"}}}],
            "no node offers it",
        ),
    ],
    ids=["no such node", "no device plugin"],
)
def test_a_gpu_profile_without_a_gpu_says_what_is_missing(rendered: Callable[..., Release], nodes: list[Any], told: str) -> None:
    """The label, or the device plugin."""
    release = rendered({"profile": "gpu", "profiles": {"gpu": {"nodeSelector": {"gpu": "yes"}}}}, 0)
    texts = [text for subject, text in wrong(replace(release, nodes=nodes)) if subject == "gpu"]
    assert len(texts) == 1
    assert told in texts[0]


def test_more_pods_than_gpus_are_counted(rendered: Callable[..., Release]) -> None:
    """Two pods and a node with one: the way out names the number."""
    release = rendered(
        {
            "profile": "gpu",
            "replicas": 2,
            "profiles": {"gpu": {"nodeSelector": {"pilothouse/pool": "gpu", "nvidia.com/gpu.present": None}}},
        },
        1,
    )
    texts = [text for subject, text in wrong(release) if subject == "gpu"]
    assert texts == ["2 pods ask for 1 nvidia.com/gpu each and the nodes have room for 1: set replicas to 1, or add a node"]


def test_memory_too_small_for_the_weights_names_the_limit_to_set(rendered: Callable[..., Release]) -> None:
    """The profile's 6Gi and a model of 14 GiB: the sum, and the flag to paste; a pod that runs all the same makes it a note."""
    short = replace(rendered(ready=0), weights=14 * GIB, least=15 * GIB)
    assert dict(wrong(short))["memory"].startswith(
        "the limit is 6Gi; 14336 MiB of weights and 1024 for the server and one short chat are 15360Mi: --set profiles.cpu.resources.limits.memory=15360Mi"
    )
    running = findings(replace(rendered(), weights=14 * GIB, least=15 * GIB))
    assert [finding.level for finding in running if finding.subject == "memory"] == ["note"]
    assert "memory" not in dict(wrong(replace(rendered(), weights=2 * GIB, least=3 * GIB)))


def test_a_missing_secret_or_key_is_named(rendered: Callable[..., Release]) -> None:
    """The Secret, and the key in it."""
    release = rendered({"apiKeys": {"existingSecret": "keys"}})
    assert dict(wrong(release))["secret"] == (
        "Secret keys is not in namespace models: "
        'kubectl -n models create secret generic keys --from-literal=api-keys="me:$(openssl rand -hex 16)"'
    )
    tls = dict(wrong(rendered({"tls": {"existingSecret": "cert"}})))["secret"]
    assert tls.endswith("kubectl -n models create secret tls cert --cert tls.crt --key tls.key")
    both = dict(wrong(rendered({"tls": {"existingSecret": "cert", "clientCaKey": "clients.crt"}})))["secret"]
    assert both.endswith("generic cert --type=kubernetes.io/tls --from-file=tls.crt --from-file=tls.key --from-file=clients.crt")
    texts = dict(wrong(replace(release, secrets={"keys": frozenset({"other"})})))
    assert texts["secret"] == "Secret keys has no key api-keys, it has other: add it, or name the key that it has in the values"
    assert wrong(replace(release, secrets={"keys": frozenset({"api-keys"})})) == []


def test_a_missing_claim_is_named(rendered: Callable[..., Release]) -> None:
    """As the values call it."""
    release = rendered({"model": {"source": "pvc", "pvc": {"claimName": "weights"}}})
    assert dict(wrong(release))["volume"].startswith("PersistentVolumeClaim weights is not in namespace models")
    assert wrong(replace(release, claims=frozenset({"weights"}))) == []


POD_TROUBLES = {
    "no node takes it: 0/3 nodes are available": {
        "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
    },
    "no node takes it: 0/4 nodes are available: 2 Insufficient cpu; lower what profiles.cpu.resources asks for, cpu (1), or free or add a node": {
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "message": "0/4 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/4 nodes are available: ...",
            }
        ]
    },
    "the image x/pilothouse:0.1.0-onnx-cuda can't be pulled: not found; build it (scripts/build-images onnx-cuda) and push it where the nodes pull from, "
    "or correct image.repository and image.tag, or set profile to cpu": {
        "containerStatuses": [
            {
                "name": "pilothouse",
                "image": "x/pilothouse:0.1.0-onnx-cuda",
                "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}},
            }
        ]
    },
    "the model's image nosuch:1 can't be pulled: no docker.io/library/nosuch:1; push it where the nodes pull from, or correct "
    "model.imageVolume.reference": {
        "containerStatuses": [
            {
                "name": "pilothouse",
                "image": "pilothouse:0.1.0-onnx",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no docker.io/library/nosuch:1"}},
            }
        ]
    },
    "pilothouse ended with code 2: '/models/model/x' is not a model; model.imageVolume.path is the folder in the volume": {
        "containerStatuses": [
            {
                "name": "pilothouse",
                "image": "",
                "lastState": {
                    "terminated": {"exitCode": 2, "message": '{"level": "error", "message": "\'/models/model/x\' is not a model"}\n'}
                },
            }
        ]
    },
    "the image pilothouse:9 can't be pulled: not found; push it where the nodes pull from, or correct image.repository and image.tag": {
        "containerStatuses": [
            {
                "name": "pilothouse",
                "image": "pilothouse:9",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
            }
        ]
    },
    "pilothouse was killed for memory at 6Gi: raise profiles.cpu.resources.limits.memory (doctor with the model's folder beside --release says "
    "to what)": {
        "containerStatuses": [{"name": "pilothouse", "image": "", "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]
    },
    "fetch-model ended with code 2: pilothouse fetch: the digest is another": {
        "initContainerStatuses": [
            {
                "name": "fetch-model",
                "image": "",
                "state": {"terminated": {"exitCode": 2, "message": "noise\npilothouse fetch: the digest is another\n"}},
            }
        ]
    },
}


@pytest.mark.parametrize("told", POD_TROUBLES)
def test_a_pods_own_words_are_told(rendered: Callable[..., Release], told: str) -> None:
    """Scheduling, images, memory and the last line of what ended; of a pod that is on its way out, nothing."""
    release = rendered({"model": {"source": "imageVolume", "imageVolume": {"reference": "nosuch:1"}}}, 0)
    template = release.deployments[0]["spec"]["template"]
    pod = {**template, "metadata": {**template["metadata"], "name": "phi3-1"}, "status": POD_TROUBLES[told]}
    assert ("phi3-1", told) in wrong(replace(release, pods=[pod]))
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T00:00:00Z"
    assert [text for subject, text in wrong(replace(release, pods=[pod])) if subject == "phi3-1"] == []


@pytest.mark.parametrize(("text", "size"), [("6Gi", 6 * GIB), ("512Mi", 512 << 20), ("1.5G", 1_500_000_000), ("1000", 1000)])
def test_quantities_are_kubernetes_own(text: str, size: int) -> None:
    """Binary and decimal units."""
    assert quantity(text) == size


def test_without_kubectl_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line and exit code 2; with one that fails, its own last words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--release", "phi3"]) == 2
    assert "kubectl is not on the PATH" in capsys.readouterr().err
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho 'invalid character' >&2\nexit 1\n")
    (tmp_path / "kubectl").chmod(0o755)
    assert main(["doctor", "--release", "phi3"]) == 2
    assert "kubectl has no current context: set KUBECONFIG" in capsys.readouterr().err
    (tmp_path / "kubectl").write_text(
        "#!/bin/sh\n[ \"$1\" = config ] && echo kind && exit\necho 'the connection was refused' >&2\nexit 1\n"
    )
    (tmp_path / "kubectl").chmod(0o755)
    assert main(["doctor", "--release", "phi3"]) == 2
    assert capsys.readouterr().err.endswith("failed: the connection was refused\n")


def test_the_report_is_json_for_scripts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Level, subject and text of each line; exit code 1 where something is wrong. What Helm says of its last revision is read from its labels."""
    (tmp_path / "kubectl").write_text(
        '#!/bin/sh\ncase "$*" in *owner=helm*) printf "1 superseded\\n10 failed\\n" ;; *version*) echo \'{"serverVersion": {"gitVersion": "v1.34.3"}}\' ;; *) echo \'{"items": []}\' ;; esac\n'
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["doctor", "--release", "phi3", "-n", "models", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert [(f["level"], f["subject"]) for f in (first, second)] == [("ok", "kubernetes"), ("wrong", "phi3")]
    assert second["text"].startswith("the release is there (failed)")
