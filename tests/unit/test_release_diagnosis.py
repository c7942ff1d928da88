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


def test_memory_too_small_for_the_weights_names_the_limit_to_set(rendered: Callable[..., Release]) -> None:
    """The profile's 6Gi and a model of 14 GiB."""
    texts = dict(wrong(replace(rendered(), weights=14 * GIB, least=15 * GIB)))
    assert texts["memory"].startswith(
        "the limit is 6Gi and the weights alone are 14336 MiB: raise the profile's resources.limits.memory to 15360Mi"
    )
    assert "memory" not in dict(wrong(replace(rendered(), weights=2 * GIB, least=3 * GIB)))


def test_a_missing_secret_or_key_is_named(rendered: Callable[..., Release]) -> None:
    """The Secret, and the key in it."""
    release = rendered({"apiKeys": {"existingSecret": "keys"}})
    assert dict(wrong(release))["secret"].startswith("Secret keys is not in namespace models: kubectl -n models create secret")
    texts = dict(wrong(replace(release, secrets={"keys": frozenset({"other"})})))
    assert texts["secret"] == "Secret keys has no key api-keys: add it, or name the key that it has in the values"
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
    "the image pilothouse:9 can't be pulled: not found; check image.repository and image.tag": {
        "containerStatuses": [
            {
                "name": "pilothouse",
                "image": "pilothouse:9",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}},
            }
        ]
    },
    "pilothouse was killed for memory: raise the profile's resources.limits.memory (`pilothouse size MODEL` says to what)": {
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
    """Scheduling, images, memory and the last line of what ended."""
    pod = {"metadata": {"name": "phi3-1"}, "status": POD_TROUBLES[told]}
    assert ("phi3-1", told) in wrong(replace(rendered(ready=0), pods=[pod]))


@pytest.mark.parametrize(("text", "size"), [("6Gi", 6 * GIB), ("512Mi", 512 << 20), ("1.5G", 1_500_000_000), ("1000", 1000)])
def test_quantities_are_kubernetes_own(text: str, size: int) -> None:
    """Binary and decimal units."""
    assert quantity(text) == size


def test_without_kubectl_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One line and exit code 2; with one that fails, its own last words."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["doctor", "--release", "phi3"]) == 2
    assert "kubectl is not on the PATH" in capsys.readouterr().err
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho 'the connection was refused' >&2\nexit 1\n")
    (tmp_path / "kubectl").chmod(0o755)
    assert main(["doctor", "--release", "phi3"]) == 2
    assert capsys.readouterr().err.endswith("failed: the connection was refused\n")


def test_the_report_is_json_for_scripts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Level, subject and text of each line; exit code 1 where something is wrong."""
    (tmp_path / "kubectl").write_text(
        '#!/bin/sh\ncase "$*" in *version*) echo \'{"serverVersion": {"gitVersion": "v1.34.3"}}\' ;; *) echo \'{"items": []}\' ;; esac\n'
    )
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["doctor", "--release", "phi3", "-n", "models", "--json"]) == 1
    assert [(f["level"], f["subject"]) for f in json.loads(capsys.readouterr().out)] == [("ok", "kubernetes"), ("wrong", "phi3")]
