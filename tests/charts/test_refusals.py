"""Wrong values never reach the cluster: each refusal names the value, the reason and the way out."""

from typing import Any

import pytest

from support.chart import CHART, Chart, Values, merge

REFUSED: dict[str, tuple[Values, str, str, str]] = {
    "unknown profile": ({"profile": "tpu"}, 'profile is "tpu"', "no such entry in profiles (cpu, gpu)", "add profiles.tpu"),
    "cuda without a GPU": (
        {"profiles": {"cpu": {"device": "cuda"}}},
        'profiles.cpu.device is "cuda"',
        "ask for no GPU",
        'resources.limits."nvidia.com/gpu": 1',
    ),
    "limit under the request": (
        {"profiles": {"cpu": {"resources": {"limits": {"memory": "64Mi"}}}}},
        'profiles.cpu.resources.limits.memory is "64Mi"',
        'the request is "4Gi", and no pod may ask for more than its limit',
        "Set both, as in profiles.cpu.resources.requests.memory: 64Mi",
    ),
    "rollout that can't move": (
        {"profiles": {"cpu": {"maxSurge": 0}}},
        "profiles.cpu.maxSurge and maxUnavailable are both 0",
        "never replace a pod",
        "Set one of them to 1",
    ),
    "tag and digest": (
        {"image": {"tag": "1", "digest": "sha256:" + "0" * 64}},
        'image.tag is "1"',
        "only one can name the image",
        "Leave image.tag empty",
    ),
    "claim without a name": ({"model": {"source": "pvc"}}, 'model.source is "pvc"', "model.pvc.claimName is empty", "Set it"),
    "image volume without a reference": (
        {"model": {"source": "imageVolume"}},
        'model.source is "imageVolume"',
        "model.imageVolume.reference is empty",
        "Set it",
    ),
    "registry without a model": ({"model": {"source": "mlflow"}}, 'model.source is "mlflow"', "model.mlflow.uri is empty", "Set it"),
    "traces that are off": (
        {"settings": {"trace_experiment": "served"}},
        'settings.trace_experiment is "served"',
        "settings.traces is off",
        "Set settings.traces: true",
    ),
    "traces without a server": (
        {"settings": {"traces": True, "trace_experiment": "served"}},
        'settings.trace_experiment is "served"',
        "model.mlflow.trackingUri is empty",
        "Set it to your MLflow server",
    ),
    "registry without a server": (
        {"model": {"source": "mlflow", "mlflow": {"uri": "models:/phi3@champion"}}},
        'model.mlflow.uri is "models:/phi3@champion"',
        "model.mlflow.trackingUri is empty",
        "Set it to your MLflow server",
    ),
    "claim that nobody asks for": (
        {"model": {"pvc": {"claimName": "models"}}},
        'model.pvc.claimName is "models"',
        'model.source is "image", so it would be ignored',
        "Set model.source: pvc",
    ),
    "setting that the chart owns": (
        {"settings": {"drain_seconds": 5}},
        'settings.drain_seconds is "5"',
        "the two would disagree",
        "use drainSeconds",
    ),
    "test key without a Secret": (
        {"apiKeys": {"testKey": "test"}},
        'apiKeys.testKey is "test"',
        "apiKeys.existingSecret is empty",
        "Set apiKeys.existingSecret",
    ),
    "account that isn't named": (
        {"serviceAccount": {"create": False}},
        "serviceAccount.create is false",
        "serviceAccount.name is empty",
        "Name an existing account",
    ),
    "most below fewest": (
        {"autoscaling": {"kind": "hpa", "minReplicas": 3, "maxReplicas": 2}},
        "autoscaling.maxReplicas is 2",
        "below autoscaling.minReplicas (3)",
        "Raise it",
    ),
    "KEDA without Prometheus": (
        {"autoscaling": {"kind": "keda"}},
        'autoscaling.kind is "keda"',
        "autoscaling.prometheusUrl is empty",
        "Set it",
    ),
    "Prometheus without KEDA": (
        {"autoscaling": {"prometheusUrl": "http://prometheus:9090"}},
        'autoscaling.prometheusUrl is "http://prometheus:9090"',
        'autoscaling.kind is "none"',
        "Set autoscaling.kind: keda",
    ),
    "routes without a gateway": (
        {"gateway": {"enabled": True}},
        "gateway.enabled is true",
        "gateway.parentRefs is empty",
        "Name your Gateway",
    ),
    "ingress for every host": ({"ingress": {"enabled": True}}, "ingress.enabled is true", "ingress.hosts is empty", "Name at least one"),
    "client certificates without TLS": (
        {"tls": {"clientCaKey": "client-ca.crt"}},
        'tls.clientCaKey is "client-ca.crt"',
        "tls.existingSecret is empty",
        "Set tls.existingSecret, or leave it empty",
    ),
    "egress without a policy": (
        {"networkPolicy": {"enabled": False, "extraEgress": [{}]}},
        "networkPolicy.extraEgress is set",
        "networkPolicy.enabled is false",
        "Set networkPolicy.enabled: true",
    ),
}
OWNED = ("tls_certificate", "tls_key", "tls_client_ca", "model", "model_name", "tracking_uri", "device", "api_keys_file", "metrics_token_file", "drain_seconds", "lame_duck_seconds", "host",
         "rest_port", "grpc_port", "metrics_port")  # fmt: skip


@pytest.mark.parametrize(("values", "value", "reason", "way_out"), REFUSED.values(), ids=REFUSED)
def test_wrong_value_is_refused_with_value_reason_and_way_out(chart: Chart, values: Values, value: str, reason: str, way_out: str) -> None:
    """One template holds all refusals; each says what was given, why it can't be, and what to set instead."""
    said = chart.refusal(values)

    assert value in said
    assert reason in said
    assert way_out in said


def test_every_refusal_has_a_case() -> None:
    """A refusal that is added without a case here fails; the image volume's is seen by version below."""
    written = (CHART / "templates" / "validation.yaml").read_text().count("{{- fail ")

    # Three sources share one sentence each for "empty" and "ignored"; the version check has a test of its own.
    assert written == len(REFUSED) - 2 + 1


def test_image_volume_is_refused_on_a_cluster_that_has_none(chart: Chart) -> None:
    """Before Kubernetes 1.31 an image volume would be dropped silently by the API server."""
    values = {"model": {"source": "imageVolume", "imageVolume": {"reference": "registry.example/phi3:1"}}}

    done = chart.run(["template", "--kube-version", "1.30.0"], values)

    assert done.returncode != 0
    assert "this cluster's Kubernetes is v1.30.0, and image volumes need 1.31 or newer" in done.stderr
    assert "Use model.source: pvc or mlflow." in done.stderr


@pytest.mark.parametrize("name", OWNED)
def test_settings_that_the_chart_sets_are_refused(chart: Chart, name: str) -> None:
    """No setting reaches the server by two roads."""
    value: Any = {"drain_seconds": 1, "lame_duck_seconds": 1, "rest_port": 1, "grpc_port": 1, "metrics_port": 1, "device": "cpu"}.get(
        name, "x"
    )

    assert f"settings.{name} is" in chart.refusal({"settings": {name: value}})


WRONG_SHAPE: dict[str, tuple[Values, str]] = {
    "typo at the top": ({"replica": 2}, "additional properties 'replica' not allowed"),
    "typo within": ({"model": {"src": "pvc"}}, "additional properties 'src' not allowed"),
    "typo in a profile": ({"profiles": {"cpu": {"gpus": 1}}}, "additional properties 'gpus' not allowed"),
    "half a profile": ({"profiles": {"small": {"device": "cpu"}}}, "missing properties"),
    "unknown setting": ({"settings": {"max_token": 1}}, "additional properties 'max_token' not allowed"),
    "setting of the wrong type": ({"settings": {"queue": "many"}}, "at '/settings/queue': got string, want integer"),
    "setting out of bounds": ({"settings": {"max_n": 1000}}, "at '/settings/max_n': maximum: got 1,000, want 128"),
    "root": ({"runAsUser": 0}, "at '/runAsUser': minimum: got 0, want 10,000"),
    "no drain": ({"drainSeconds": 0}, "at '/drainSeconds': minimum: got 0, want 1"),
    "digest": ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match pattern"),
    "alias and version": ({"model": {"mlflow": {"uri": "models:/a@b/1"}}}, "at '/model/mlflow/uri'"),
    "run instead of a model": ({"model": {"mlflow": {"uri": "runs:/1/model"}}}, "at '/model/mlflow/uri'"),
    "path out of the volume": ({"model": {"pvc": {"path": "../secret"}}}, "at '/model/pvc/path'"),
    "quantity": (
        {"profiles": {"cpu": {"resources": {"limits": {"cpu": "lots"}}}}},
        "at '/profiles/cpu/resources/limits/cpu': 'lots' does not match pattern",
    ),
    "name of a Secret": ({"apiKeys": {"existingSecret": "Bad_Name"}}, "at '/apiKeys/existingSecret': 'Bad_Name' does not match pattern"),
    "model name": ({"model": {"name": "a model"}}, "at '/model/name'"),
    "source": ({"model": {"source": "s3"}}, "at '/model/source': value must be one of 'image', 'pvc', 'imageVolume', 'mlflow'"),
}


@pytest.mark.parametrize(("values", "said"), WRONG_SHAPE.values(), ids=WRONG_SHAPE)
def test_value_of_the_wrong_shape_is_refused_by_its_path(chart: Chart, values: Values, said: str) -> None:
    """The schema is closed at every level: a typo is an error that names the place."""
    assert said in chart.refusal(values)


@pytest.mark.parametrize(
    ("limit", "request_"), [("1Gi", "1024Mi"), (8589934592, "8Gi"), ("1.5", "1500m"), (1.5, 1), ("2G", "1Gi")], ids=str
)
def test_requests_up_to_their_limit_are_taken(chart: Chart, limit: Any, request_: Any) -> None:
    """Quantities are compared as Kubernetes reads them: numbers, binary and decimal units, thousandths."""
    name = "memory" if str(limit)[-1] in "iG2" else "cpu"
    resources = {"limits": {name: limit}, "requests": {name: request_}}
    assert chart.one("Deployment", {"profiles": {"cpu": {"resources": resources}}})


def test_refusals_hold_when_values_are_merged(chart: Chart) -> None:
    """A good value beside a wrong one does not hide it."""
    assert 'profile is "tpu"' in chart.refusal(merge({"replicas": 2}, {"profile": "tpu"}))
