"""Many LanguageModels: each is reconciled with few calls, and with none when nothing changes.

With --full a hundred, every fifth with a server of the scripted engine, which computes nothing; else twenty without pods.
"""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.cluster import FULL, Space, until
from support.operating import Operator

MANY, SERVED = (100, 20) if FULL else (20, 0)
PATIENCE = 500 if FULL else 300


def specifications(space: Space) -> list[dict[str, Any]]:
    """One for each. A server of the scripted engine gives no known answer, so that no check is asked for."""
    bare: dict[str, Any] = {"source": {"image": {}}, "replicas": 0, "rollout": {"smoke": False}}
    node = min(n["metadata"]["name"] for n in space.get("nodes", "-l", "pilothouse/pool=cpu"))  # which has the image
    resources = {"requests": {"cpu": "5m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "512Mi"}}
    profile = {"startSeconds": 900, "resources": resources, "nodeSelector": {"kubernetes.io/hostname": node}}
    image = {"repository": "pilothouse-test-scripted", "tag": "1"}
    served = {**bare, "replicas": 1, "image": image, "values": {"profiles": {"cpu": profile}}}
    return [served] * SERVED + [bare] * (MANY - SERVED)


@pytest.fixture
def many(space: Space, operator: Operator) -> Iterator[list[str]]:
    names = [f"many-{number}" for number in range(MANY)]
    yield names
    space.kubectl("delete", "languagemodels", "--all", "--wait", "--timeout=120s", seconds=150)
    until("their pods are gone", lambda: not space.get("pods"), PATIENCE)


def test_many_are_reconciled_with_few_calls(operator: Operator, space: Space, many: list[str]) -> None:
    """The numbers are printed; what is asserted is that a world at rest costs no call."""
    specs, before = specifications(space), operator.metrics()
    begun = time.monotonic()
    space.apply(
        *(
            {
                "apiVersion": "pilothouse.org/v1alpha1",
                "kind": "LanguageModel",
                "metadata": {"name": name, "namespace": space.name},
                "spec": spec,
            }
            for name, spec in zip(many, specs, strict=True)
        )
    )

    def settled() -> bool:
        found = json.loads(space.kubectl("get", "languagemodels", "-o", "json"))["items"]
        return sum(bool((body.get("status") or {}).get("stable")) for body in found) == MANY

    until("all are served", settled, PATIENCE)
    passed = time.monotonic() - begun
    after = until("the operator rests", lambda: _resting(operator), 120)

    made = {name: after[f"pilothouse_operator_{name}"] - before[f"pilothouse_operator_{name}"] for name in ("api_calls", "chart_renders")}
    reconciles = after['pilothouse_operator_reconciles_total{outcome="ok"}'] - before['pilothouse_operator_reconciles_total{outcome="ok"}']
    seconds = after["pilothouse_operator_reconcile_seconds_sum"] - before["pilothouse_operator_reconcile_seconds_sum"]
    print(
        f"\n{MANY} LanguageModels ({SERVED} with a server) in {passed:.1f} s: {made['api_calls'] / MANY:.1f} API calls and {made['chart_renders'] / MANY:.1f} renders each; "
        f"{reconciles:.0f} reconciles of {seconds / reconciles * 1000:.0f} ms and {made['api_calls'] / reconciles:.2f} calls"
    )
    quiet = operator.metrics()
    space.kubectl("annotate", "languagemodels", "--all", "look=again")
    woken = until(
        "all were looked at again",
        lambda: (
            found
            if (found := operator.metrics())['pilothouse_operator_reconciles_total{outcome="ok"}']
            >= quiet['pilothouse_operator_reconciles_total{outcome="ok"}'] + MANY
            else None
        ),
    )
    assert woken["pilothouse_operator_api_calls"] == quiet["pilothouse_operator_api_calls"]
    assert (
        after['pilothouse_operator_reconciles_total{outcome="failed"}'] == before['pilothouse_operator_reconciles_total{outcome="failed"}']
    )


def _resting(operator: Operator) -> dict[str, float] | None:
    """The metrics, once two looks in a row show the same number of calls."""
    first, second = operator.metrics(), operator.metrics()
    name = "pilothouse_operator_api_calls"
    return second if first[name] == second[name] and not second["pilothouse_operator_queue_overdue"] else None
