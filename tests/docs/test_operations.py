"""The page for operators says what the chart does."""

import re

from support.chart import ROOT, Chart

PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_every_alert_has_its_runbook() -> None:
    """One row for each rule of the chart, and none for rules that are not there."""
    (rules,) = [m for m in Chart.found().render({"metrics": {"rules": {"enabled": True}}}) if m["kind"] == "PrometheusRule"]
    alerts = [rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| (Pilothouse\w+) \|", PAGE, re.MULTILINE) == alerts


def test_the_stopping_table_is_the_charts_arithmetic() -> None:
    """The page's seconds are the pod's."""
    pause, lame, drain, leave = (int(n) for n in re.findall(r"^\| .* \| (?:`drainSeconds` \()?(\d+)\)? \|$", PAGE, re.MULTILINE)[:4])
    chart = Chart.found()
    pod = chart.pod()
    assert pod["terminationGracePeriodSeconds"] == pause + lame + drain + leave
    data = chart.one("ConfigMap")["data"]
    assert (data["PILOTHOUSE_LAME_DUCK_SECONDS"], data["PILOTHOUSE_DRAIN_SECONDS"]) == (str(lame), str(drain))
