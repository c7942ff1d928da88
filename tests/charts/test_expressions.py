"""Every PromQL expression that the chart ships is read by Prometheus' own grammar, and asks for what our /metrics has."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pilothouse.metrics import Metrics
from pilothouse.operator import metrics as operator
from support.chart import COMBINATIONS, Chart, merge
from support.environments import environment

HERE = Path(__file__).parent
WITH = merge(COMBINATIONS["cpu-monitoring"], COMBINATIONS["cpu-keda"])
GIVEN = {"namespace", "service", "pod"}
"""Labels that Prometheus adds to what it scrapes in a cluster."""


def read(expressions: list[str]) -> list[dict[str, Any]]:
    """What the parser says of each."""
    python = environment(HERE / "requirements" / "promql.txt")
    plain = [re.sub(r"\$__(rate_)?interval", "5m", re.sub(r"\$(namespace|service)\b", "x", text)) for text in expressions]
    done = subprocess.run(
        [python, HERE / "with_promql.py"], input=json.dumps(plain), capture_output=True, text=True, timeout=60, check=True
    )
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def shipped(chart: Chart) -> dict[str, str]:
    """Every expression by where it stands: alerts, panels, and what KEDA scales by."""
    found = {}
    for manifest in [*chart.render(WITH), *chart.operator("metrics.rules.enabled=true")]:
        if manifest["kind"] == "PrometheusRule":
            for rule in manifest["spec"]["groups"][0]["rules"]:
                found[f"alert {rule['alert']}"] = rule["expr"]
        if manifest["kind"] == "ScaledObject":
            for number, trigger in enumerate(manifest["spec"]["triggers"]):
                found[f"trigger {number}"] = trigger["metadata"]["query"]
        if manifest["metadata"]["name"].endswith("-dashboard"):
            for panel in json.loads(manifest["data"]["pilothouse.json"])["panels"]:
                found |= {f"panel {panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def exported() -> dict[str, dict[str, set[str]]]:
    """The samples of a fresh server's /metrics, and of a fresh operator's, by name: their labels, with the values that are there."""
    metrics = Metrics()
    metrics.watch("m", lambda: None, lambda: {"version": "1", "engine": "e", "device": "cpu"})
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families((metrics.render() + operator.Metrics().text([])).decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def test_every_expression_is_promql_over_metrics_labels_and_values_that_exist(chart: Chart) -> None:
    """A typo in any of them would be an alert that never fires, or a panel that stays empty."""
    expressions, known = shipped(chart), exported()
    wrong = {}
    for (where, text), told in zip(expressions.items(), read(list(expressions.values())), strict=True):
        for name, matchers in told.get("selects", ()):
            labels = known.get(name, {} if name == "up" else None)
            if labels is None:
                wrong[where] = f"{name} is no metric of ours: {text}"
                continue
            for label, value in matchers:
                if label not in GIVEN and value not in labels.get(label, ()):
                    wrong[where] = f"{name} has no {label}={value}: {text}"
        if "error" in told:
            wrong[where] = f"{told['error']}: {text}"

    assert wrong == {}
    assert len([where for where in expressions if where.startswith("alert")]) == 9
    assert len([where for where in expressions if where.startswith("panel")]) >= 12


@pytest.mark.parametrize(("text", "said"), [("rate(pilothouse_cancelled_total)", "matrix"), ("sum(rate(a[5m])", "parenthesis")])
def test_a_wrong_expression_would_be_found(text: str, said: str) -> None:
    """The parser knows types and brackets."""
    (told,) = read([text])
    assert said in told["error"]
