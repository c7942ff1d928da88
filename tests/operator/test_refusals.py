"""The API server refuses what can't be served, when it is applied, with the way out; and knows the resource as its own kinds."""

import json
import re
from typing import Any

import pytest

from support.chart import ROOT
from support.cluster import Space
from support.operating import Operator, Served

URI = {"uri": "models:/phi3@champion", "trackingUri": "http://mlflow:5000"}
IMAGE: dict[str, Any] = {"source": {"image": {}}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"source": {}}, "exactly one of source.registry, source.pvc, source.imageVolume and source.image"),
        ({"source": {"image": {}, "registry": URI}}, "keep one"),
        ({"source": {"registry": {**URI, "uri": "models:/phi3/Production"}}}, "set an alias on the version"),
        ({"source": {"registry": {**URI, "uri": "runs:/abc/model"}}}, "set an alias on the version"),
        ({"source": {"registry": {**URI, "trackingUri": "http://me:secret@mlflow"}}}, "credentials belong into secretName"),
        ({"source": {"registry": {**URI, "pollSeconds": 1}}}, "pollSeconds"),
        ({**IMAGE, "replicas": -1}, "replicas"),
        ({**IMAGE, "replicas": 2, "autoscaling": {"kind": "hpa"}}, "the autoscaler says how many; remove replicas"),
        ({**IMAGE, "autoscaling": {"kind": "keda"}}, "set it, as in http://prometheus.monitoring.svc:9090"),
        ({**IMAGE, "autoscaling": {"kind": "hpa", "minReplicas": 3, "maxReplicas": 2}}, "raise it"),
        ({**IMAGE, "image": {"tag": "x", "digest": "sha256:" + "0" * 64}}, "remove image.tag"),
        ({**IMAGE, "apiKeys": {"existingSecret": "keys"}}, "name it in apiKeys.testKey, or set rollout.smoke: false"),
        ({**IMAGE, "rollout": {"smoke": False, "analysis": {}}}, "remove rollout.analysis, or set rollout.smoke: true"),
        ({**IMAGE, "settings": {"queue": -1}}, "spec.settings.queue"),
        ({**IMAGE, "settings": {"quue": 3}}, 'unknown field "spec.settings.quue"'),
        ({**IMAGE, "values": {"drainSeconds": 0}}, "spec.values.drainSeconds"),
        ({**IMAGE, "rollout": {"analysis": {"questions": [{"question": "a"}, {"question": "a"}]}}}, "keep one"),
        ({**IMAGE, "rollout": {"strategy": "BlueGreen"}}, 'supported values: "Candidate", "InPlace"'),
        ({}, "spec.source"),
    ],
)
def test_wrong_value_is_refused_at_apply(operator: Operator, space: Space, spec: dict[str, Any], said: str) -> None:
    """By name, and nothing is made."""
    model = Served(space, "wrong")

    answer = model.apply(spec, check=False)

    assert said in answer
    assert 'languagemodels.pilothouse.org "wrong" not found' in space.kubectl("get", "languagemodel", "wrong", check=False)


@pytest.mark.parametrize("page", ["docs/operator.md", "charts/pilothouse-operator/templates/NOTES.txt"])
def test_example_of_the_page_is_taken(operator: Operator, space: Space, page: str) -> None:
    """Every manifest between the lines of a `kubectl apply`, as it stands."""
    text = (ROOT / page).read_text().replace("\n  ", "\n") if page.endswith(".txt") else (ROOT / page).read_text()
    manifests = re.findall(r"kubectl apply -f - <<'MODEL'\n(.*?)\nMODEL", text, re.S)

    assert manifests
    for manifest in manifests:
        assert "created (server dry run)" in space.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=manifest)


@pytest.mark.parametrize("name", ["phi.3", "3phi", "a" * 41])
def test_name_that_can_be_no_service_is_refused(operator: Operator, space: Space, name: str) -> None:
    """It becomes the Service's."""
    assert "choose a shorter or plainer one" in Served(space, name).apply(IMAGE, check=False)


def test_what_only_the_chart_knows_is_said_in_the_status(model: Served) -> None:
    """The chart's own words, and nothing is made."""
    model.apply({**IMAGE, "profile": "tpu"})

    said = model.reason("Degraded", "InvalidSpec")

    assert said.startswith('profile is "tpu": there is no such entry in profiles (cpu, gpu).')
    assert model.owned() == set()


def test_it_is_scaled_and_shown_as_other_kinds_are(model: Served) -> None:
    """`kubectl scale`, its short name, and its columns."""
    model.apply({**IMAGE, "replicas": 0})
    model.reason("Ready", "ScaledToZero")
    model.space.kubectl("scale", "lm/phi3", "--replicas=1")
    model.serving()

    head, row = model.space.kubectl("get", "lm").strip().splitlines()
    scale = json.loads(
        model.space.kubectl("get", "--raw", f"/apis/pilothouse.org/v1alpha1/namespaces/{model.space.name}/languagemodels/phi3/scale")
    )

    assert head.split() == ["NAME", "MODEL", "VERSION", "PROFILE", "READY", "ROLLOUT", "URL", "AGE"]
    assert row.split()[:-1] == ["phi3", "image", "cpu", "True", "UpToDate", f"http://phi3.{model.space.name}.svc:8080"]
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (1, 1)
    assert "app.kubernetes.io/instance=phi3" in scale["status"]["selector"]


def test_nothing_of_somebody_elses_is_taken_over(model: Served) -> None:
    """A ConfigMap of that name is there already: it stays as it is, and the way out is said."""
    model.space.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "phi3"}, "data": {"mine": "yes"}})
    try:
        model.apply({**IMAGE, "replicas": 0})
        said = model.reason("Degraded", "NameTaken")
        assert said == "ConfigMap phi3 is there already and not this LanguageModel's; remove it, or give the LanguageModel another name"
        assert model.space.get("configmap", "phi3")["data"] == {"mine": "yes"}
    finally:
        model.space.kubectl("delete", "configmap", "phi3")
    model.reason("Ready", "ScaledToZero")
