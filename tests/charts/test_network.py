"""The network policy: closed but for what a value names."""

from typing import Any

import pytest

from support.chart import Chart

DNS = {
    "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
    "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}],
}


def registry(address: str) -> dict[str, Any]:
    return {"model": {"source": "mlflow", "mlflow": {"uri": "models:/phi3@champion", "trackingUri": address}}}


def test_nothing_gets_out_by_default(chart: Chart) -> None:
    """Egress is policed and has no rule at all: not even DNS."""
    spec = chart.one("NetworkPolicy")["spec"]

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec


def test_own_namespace_and_prometheus_get_in_by_default(chart: Chart) -> None:
    """Two rules: REST and gRPC for the namespace's pods, metrics for the namespace `monitoring`."""
    assert chart.one("NetworkPolicy")["spec"]["ingress"] == [
        {"ports": [{"protocol": "TCP", "port": "rest"}, {"protocol": "TCP", "port": "grpc"}], "from": [{"podSelector": {}}]},
        {
            "ports": [{"protocol": "TCP", "port": "metrics"}],
            "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
    ]


def test_named_callers_replace_the_namespace_and_helm_test_still_gets_in(chart: Chart) -> None:
    """Who is listed may ask; the test pod always may."""
    caller = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "apps"}}}

    rules = chart.one("NetworkPolicy", {"networkPolicy": {"from": [caller], "metricsFrom": []}})["spec"]["ingress"]

    test = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "pilothouse-test", "app.kubernetes.io/instance": "phi3"}}}
    assert [rule["from"] for rule in rules] == [[caller, test]]


@pytest.mark.parametrize(
    ("address", "port", "to"),
    [
        ("http://mlflow.mlflow.svc:5000", 5000, [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "mlflow"}}}]),
        (
            "http://mlflow.tracking.svc.cluster.local",
            80,
            [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracking"}}}],
        ),
        ("http://mlflow:5000", 5000, [{"podSelector": {}}]),
        ("http://10.0.0.7:5000", 5000, [{"ipBlock": {"cidr": "10.0.0.7/32"}}]),
        ("https://mlflow.example.com/path", 443, None),
    ],
)
def test_registry_opens_its_own_port_and_dns_only(chart: Chart, address: str, port: int, to: Any) -> None:
    """As narrow as a policy can say it: a policy knows no host names, so a registry outside is its port anywhere."""
    expected = {"ports": [{"protocol": "TCP", "port": port}]} | ({"to": to} if to else {})

    assert chart.one("NetworkPolicy", registry(address))["spec"]["egress"] == [DNS, expected]


def test_extra_egress_is_added_and_nothing_else(chart: Chart) -> None:
    """An object store beside the registry, for example."""
    rule = {"ports": [{"protocol": "TCP", "port": 443}]}

    assert chart.one("NetworkPolicy", {"networkPolicy": {"extraEgress": [rule]}})["spec"]["egress"] == [rule]


def test_test_pod_may_ask_the_server_only(chart: Chart) -> None:
    """What checks the promises gets no further."""
    (policy,) = [m for m in chart.render() if m["metadata"]["name"] == "phi3-pilothouse-test" and m["kind"] == "NetworkPolicy"]

    assert policy["spec"]["egress"] == [
        DNS,
        {
            "ports": [{"protocol": "TCP", "port": 8080}, {"protocol": "TCP", "port": 8081}],
            "to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "pilothouse", "app.kubernetes.io/instance": "phi3"}}}],
        },
    ]


def test_traces_get_out_to_the_tracking_server(chart: Chart) -> None:
    """Also where the model comes from elsewhere: the server's address, its port, its credentials."""
    address = {"mlflow": {"trackingUri": "http://10.0.0.7:5000", "existingSecret": "mlflow"}}
    values: dict[str, Any] = {"settings": {"traces": True, "trace_experiment": "served"}, "model": address}

    assert chart.one("NetworkPolicy", values)["spec"]["egress"] == [
        DNS,
        {"ports": [{"protocol": "TCP", "port": 5000}], "to": [{"ipBlock": {"cidr": "10.0.0.7/32"}}]},
    ]
    assert chart.one("ConfigMap", values)["data"]["PILOTHOUSE_TRACKING_URI"] == "http://10.0.0.7:5000"
    (container,) = chart.pod(values)["containers"]
    assert {"secretRef": {"name": "mlflow"}} in container["envFrom"]
    assert chart.pod(values).get("initContainers") is None
