"""What the controller adds to the chart's objects."""

from typing import Any

from pilothouse.operator.objects import MANAGER, handed_over


def deployment(replicas: int | None = None, *managers: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": "phi3", "namespace": "models", "labels": {"a": "b"}, "managedFields": list(managers)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {} if replicas is None else {"replicas": replicas}}


def fields(manager: str, *names: str) -> dict[str, Any]:
    return {"manager": manager, "operation": "Apply", "fieldsV1": {"f:spec": {f"f:{name}": {} for name in names}}}


def test_number_of_pods_is_handed_over_to_an_autoscaler() -> None:
    """As many as there are: nothing else of the Deployment goes with it."""
    assert handed_over(deployment(), deployment(3, fields(MANAGER, "template", "replicas"))) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "phi3", "namespace": "models"},
        "spec": {"replicas": 3},
    }


def test_nothing_is_handed_over_that_is_not_ours_or_stays_ours() -> None:
    """A fixed number, one that the autoscaler has already, and a kind that has none."""
    ours, others = fields(MANAGER, "template", "replicas"), fields("kube-controller-manager", "replicas")

    assert handed_over(deployment(2), deployment(3, ours)) is None
    assert handed_over(deployment(), deployment(3, fields(MANAGER, "template"), others)) is None
    assert handed_over({**deployment(), "kind": "Service"}, deployment(3, ours)) is None
