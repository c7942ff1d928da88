"""A LanguageModel becomes the chart's values; how many pods is no part of what they are."""

from typing import Any

from pilothouse.operator.spec import Key, read
from pilothouse.operator.values import Pinned, candidate_values, chart_values, main_values, revision, scale_values, url

KEY = Key("models", "phi3")
PINNED = Pinned("models:/phi3/7", "7", "sha256:abc")
REGISTRY = {
    "uri": "models:/phi3@champion",
    "trackingUri": "http://mlflow:5000",
    "secretName": "token",
    "sizeLimit": "1Gi",
    "pollSeconds": 9,
}


def model(**spec: Any) -> Any:
    return read({"metadata": {"namespace": "models", "name": "phi3", "uid": "1"}, "spec": {"source": {"image": {}}, **spec}})


def test_alias_is_pinned_and_its_digest_marks_the_pods() -> None:
    """An alias never reaches the pods, and a version that is tagged anew makes new ones."""
    made = chart_values(model(source={"registry": REGISTRY}, modelName="phi3"), PINNED)

    assert made["model"] == {
        "kind": "onnx",
        "name": "phi3",
        "source": "mlflow",
        "mlflow": {
            "uri": "models:/phi3/7",
            "digest": "sha256:abc",
            "trackingUri": "http://mlflow:5000",
            "existingSecret": "token",
            "sizeLimit": "1Gi",
        },
    }
    assert made["podAnnotations"] == {"pilothouse.org/version": "7", "pilothouse.org/digest": "sha256:abc"}


def test_every_source_is_the_charts_own() -> None:
    """By the chart's names."""
    claim, volume = {"claimName": "c", "path": "a"}, {"reference": "r"}

    assert chart_values(model(), None)["model"]["source"] == "image"
    assert chart_values(model(source={"pvc": claim}), None)["model"] | {"kind": "", "name": ""} == {
        "kind": "",
        "name": "",
        "source": "pvc",
        "pvc": claim,
    }
    assert chart_values(model(source={"imageVolume": volume}), None)["model"]["imageVolume"] == volume


def test_fields_go_where_the_chart_has_them() -> None:
    """And other values as they are."""
    made = chart_values(model(profile="gpu", settings={"queue": 3}, values={"drainSeconds": 9, "podAnnotations": {"a": "b"}}), None)

    assert (made["profile"], made["settings"], made["drainSeconds"], made["podAnnotations"]) == ("gpu", {"queue": 3}, 9, {"a": "b"})


def test_how_many_is_no_part_of_a_revision() -> None:
    """Scaling is no rollout."""
    few, many = model(replicas=1), model(replicas=5, autoscaling={"kind": "none"})

    assert chart_values(few, None) == chart_values(many, None)
    assert scale_values(many) == {"replicas": 5, "autoscaling": {"kind": "none"}}
    assert main_values(KEY, {"profile": "cpu"}, {"replicas": 5}) == {"profile": "cpu", "replicas": 5, "fullnameOverride": "phi3"}


def test_revision_is_named_by_what_it_is() -> None:
    """The same again has the same name; other pods, other values or another digest have another."""
    values, pods = {"profile": "cpu"}, {"spec": {}}
    one = revision(KEY, values, pods, PINNED)

    assert one == revision(KEY, dict(values), dict(pods), PINNED)
    assert (one.version, one.digest, one.uri) == ("7", "sha256:abc", "models:/phi3/7")
    assert revision(KEY, {"profile": "gpu"}, pods, PINNED).name != one.name
    assert revision(KEY, values, {"spec": {"x": 1}}, PINNED).fingerprint != one.fingerprint


def test_candidate_has_one_pod_and_no_door() -> None:
    """Nothing routes to it, nothing scrapes it for the alerts, and its name is its own."""
    made = candidate_values(KEY, {"ingress": {"enabled": True, "hosts": ["x"]}, "networkPolicy": {"extraEgress": [1]}, "drainSeconds": 9})

    assert (made["fullnameOverride"], made["replicas"], made["autoscaling"]["kind"]) == ("phi3-candidate", 1, "none")
    assert made["ingress"]["enabled"] is made["gateway"]["enabled"] is made["metrics"]["serviceMonitor"]["enabled"] is False
    assert made["networkPolicy"] == {
        "extraEgress": [1],
        "from": [{"podSelector": {"matchLabels": {"pilothouse.org/nobody": "but-the-check"}}}],
    }
    assert made["drainSeconds"] == 9


def test_policy_is_read_with_its_defaults() -> None:
    """Which the CRD states as well."""
    policy = model().policy
    asked = model(
        rollout={"analysis": {"questions": [{"question": "a", "answer": "b"}, {"question": "c"}], "maxSlowdownPercent": 0}}
    ).policy

    assert (policy.strategy, policy.smoke, policy.pause, policy.analysis.compares) == ("Candidate", True, False, False)
    assert [(q.question, q.answer) for q in asked.analysis.questions] == [("a", "b"), ("c", None)]
    assert asked.analysis.compares
    assert model(source={"registry": REGISTRY}).registered.uri == "models:/phi3@champion"
    assert model(source={"registry": {**REGISTRY, "uri": "models:/phi3/12"}}).registered.version == "12"


def test_address_speaks_tls_where_the_pods_do() -> None:
    """What the status shows can be pasted."""
    assert url(model()) == "http://phi3.models.svc:8080"
    assert url(model(values={"tls": {"existingSecret": "pair"}})) == "https://phi3.models.svc:8080"
