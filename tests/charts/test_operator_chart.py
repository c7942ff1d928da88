"""The operator's chart: shut pods, rights that are needed and no more, a CRD that is made from the chart it drives."""

import json
import os
import re
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilothouse.operator.chart import Chart as Rendering
from pilothouse.operator.chart import ChartRefused as Refusing
from pilothouse.operator.cluster import KINDS
from pilothouse.operator.metrics import Metrics
from support.chart import CHART, COMBINATIONS, OPERATOR, ROOT, Chart
from support.foreign import FOREIGN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its imports warn of their own age
    import jsonschema
    import kubernetes_validate

VERSIONS = ("1.32", "1.34", "1.36")
VALUES = sorted((ROOT / "manifests" / "values").glob("operator*.yaml"))

Manifest = dict[str, Any]


def one(manifests: list[Manifest], kind: str, name: str = "op-pilothouse-operator") -> Manifest:
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def rights(rules: list[Manifest]) -> dict[str, set[str]]:
    """Resource, with its group -> verbs."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                found.setdefault(f"{resource}.{group}".rstrip("."), set()).update(rule["verbs"])
    return found


def test_rights_are_those_of_what_the_chart_can_make(chart: Chart) -> None:
    """Every kind of any combination of values, and nothing that the operator does not touch."""
    made = {manifest["kind"] for values in COMBINATIONS.values() for manifest in chart.render(values)} - {"Pod"}
    ruled = rights(one(chart.operator(), "ClusterRole")["rules"])
    full = {"get", "list", "watch", "create", "patch", "delete"}

    assert made <= set(KINDS)
    for kind in made:
        version, plural = KINDS[kind]
        group = version.rpartition("/")[0]
        assert ruled.pop(f"{plural}.{group}".rstrip(".")) == full, kind
    assert ruled == {
        "languagemodels.pilothouse.org": {"get", "list", "watch"},
        "languagemodels/status.pilothouse.org": {"patch"},
        "pods": {"get", "list", "watch", "create", "delete"},
        "pods/log": {"get"},
        "events": {"create"},
        "controllerrevisions.apps": {"get", "list", "watch", "create", "delete"},
    }


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_manifests_are_valid(values: Path, version: str) -> None:
    """What is rendered and committed, held to three versions of Kubernetes and to others' CRDs, strictly."""
    for manifest in yaml.safe_load_all((ROOT / "manifests" / "rendered" / values.name).read_text()):
        if manifest["kind"] in FOREIGN:
            jsonschema.validate(manifest, FOREIGN[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_crd_is_valid(chart: Chart, version: str) -> None:
    """The resource's own definition too."""
    kubernetes_validate.validate(one(chart.operator(), "CustomResourceDefinition", "languagemodels.pilothouse.org"), version, strict=True)


def test_rights_are_only_in_the_named_namespaces(chart: Chart) -> None:
    """A Role in each, and no ClusterRole but those that people get."""
    manifests = chart.operator("namespaces={a,b}")

    assert {m["metadata"]["namespace"] for m in manifests if m["kind"] == "Role"} == {"a", "b", "system"}
    assert {m["metadata"]["name"] for m in manifests if m["kind"] == "ClusterRole"} == {
        "op-pilothouse-operator-edit",
        "op-pilothouse-operator-view",
    }
    assert not [m for m in manifests if m["kind"] == "ClusterRoleBinding"]


def test_pod_is_shut(chart: Chart) -> None:
    """Pod Security "restricted", a root file system that can't be written, and a numeric user."""
    pod = one(chart.operator(), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsUser"] >= 10000
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["image"] == "pilothouse:0.1.0-operator"
    assert set(container["resources"]) == {"requests", "limits"}


def test_credentials_are_files_of_their_own_server(chart: Chart) -> None:
    """A folder for each, named in registries.json."""
    manifests = chart.operator(
        "registries[0].trackingUri=https://a", "registries[0].existingSecret=s", "registries[1].trackingUri=https://b"
    )
    (volume,) = [v for v in one(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"] if v["name"] == "registries"]

    assert json.loads(one(manifests, "ConfigMap")["data"]["registries.json"]) == {"0": "https://a", "1": "https://b"}
    assert [s["secret"]["items"][0]["path"] for s in volume["projected"]["sources"] if "secret" in s] == [
        "0/MLFLOW_TRACKING_TOKEN",
        "0/MLFLOW_TRACKING_USERNAME",
        "0/MLFLOW_TRACKING_PASSWORD",
    ]


def test_crd_is_installed_and_kept(chart: Chart) -> None:
    """With the chart, so that it is upgraded; not removed with it; and left out where somebody else installs it."""
    crd = one(chart.operator(), "CustomResourceDefinition", "languagemodels.pilothouse.org")

    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "CustomResourceDefinition" not in {m["kind"] for m in chart.operator("crd.install=false")}


def test_crd_takes_every_value_of_the_chart_somewhere() -> None:
    """A new value of the chart can be set in a LanguageModel too, and a setting of the server."""
    schema = json.loads((ROOT / "charts" / "pilothouse" / "values.schema.json").read_text())
    crd = yaml.safe_load((OPERATOR / "files" / "languagemodel.yaml").read_text())
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]

    named = (
        set(spec["values"]["properties"])
        | {"model", "global", "nameOverride", "fullnameOverride"}
        | (set(spec) - {"source", "rollout", "values"})
    )
    assert set(schema["properties"]) <= named
    assert set(spec["settings"]["properties"]) == set(schema["properties"]["settings"]["properties"])


def test_crd_schema_and_page_are_what_their_sources_say() -> None:
    """Run scripts/chart-docs after a change of either chart's values, of the server's settings, or of the CRD's skeleton."""
    done = subprocess.run([ROOT / "scripts/chart-docs", "--check"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_says_the_way_out() -> None:
    """What is wrong, then what to do."""
    text = (OPERATOR / "files" / "languagemodel.in.yaml").read_text()
    messages = re.findall(r'message: "(.*)"', text)

    assert len(messages) >= 11
    assert [m for m in messages if not re.search(r"[:;,] (choose|remove|keep|set|raise|name|credentials|stages)|; |: ", m)] == []


def test_conditions_of_the_page_are_those_of_the_code() -> None:
    """Every reason that the code can give has a line with its way out."""
    page = (ROOT / "docs" / "operator.md").read_text()
    code = "".join(path.read_text() for path in (ROOT / "runtime/pilothouse/operator").glob("*.py"))
    reasons = set(re.findall(r'(?:Failure|_no)\(\s*"([A-Z]\w+)"', code)) | set(re.findall(r'"(?:True|False)", "([A-Z]\w+)"', code))

    assert {reason for reason in reasons - {"Passed"} if f"`{reason}`" not in page} == set()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"profile": "tpu"}, 'profile is "tpu": there is no such entry in profiles (cpu, gpu). Name one of these, or add profiles.tpu.'),
        ({"replicas": -1}, "pilothouse: - at '/replicas': minimum: got -1, want 0"),
    ],
    ids=["the chart's rules", "its schema"],
)
def test_refusal_is_the_charts_own_words(chart: Chart, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], said: str) -> None:
    """What the status shows of it: nothing of Helm's about itself."""
    monkeypatch.setenv("PATH", f"{Path(chart.helm).parent}:{os.environ['PATH']}")

    with pytest.raises(Refusing) as refusal:
        Rendering("v1.34.0", CHART).render("phi3", "models", values)

    assert str(refusal.value) == said


def test_every_alert_has_its_runbook(chart: Chart) -> None:
    """One row for each rule of the chart, and none for rules that are not there."""
    page = (ROOT / "docs" / "operator.md").read_text()
    (rules,) = [m for m in chart.operator("metrics.rules.enabled=true") if m["kind"] == "PrometheusRule"]

    assert re.findall(r"^\| (Pilothouse\w+) \|", page, re.MULTILINE) == [rule["alert"] for rule in rules["spec"]["groups"][0]["rules"]]


def test_every_metric_is_on_the_page() -> None:
    """By its whole name or its ending."""
    page = (ROOT / "docs" / "operator.md").read_text()
    names = {f.name.removeprefix("pilothouse_operator") for f in Metrics().registry.collect() if f.name.startswith("pilothouse_operator")}

    assert {name for name in names if name not in page} == set()
