"""A prober inside the cluster that asks a Service all the time, for as long as a test's block runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from support.cluster import FULL, Space, until

RATE = 20.0  # requests a second, of four kinds in turn, where a test names no other
IMAGE = "pilothouse:0.1.0-onnx"
SCRIPT = Path(__file__).parents[1] / "cluster" / "prober.py"


class Asked(Protocol):
    """A Service: its namespace and its name."""

    @property
    def space(self) -> Space: ...
    @property
    def full(self) -> str: ...


@contextmanager
def probing(release: Asked, node: str, report: dict[str, Any], least: int = 1, rate: float = RATE) -> Iterator[None]:
    """A prober on `node` for as long as the block runs, and until it has asked often enough; `report` is filled at the end."""
    space = release.space
    space.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "prober"}, "data": {"prober.py": SCRIPT.read_text()}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "prober"},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [
                    {
                        "name": "prober",
                        "image": IMAGE,
                        "command": ["python3", "/prober/prober.py", f"http://{release.full}:8080", f"{release.full}:8081"],
                        "args": [str(rate), str(least), "900" if FULL else "420"],
                        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                        "volumeMounts": [{"name": "script", "mountPath": "/prober"}],
                    }
                ],
                "volumes": [{"name": "script", "configMap": {"name": "prober"}}],
            },
        },
    )
    try:
        until("the prober asks", lambda: "probing" in space.kubectl("logs", "prober", check=False), 60)
        yield
        space.kubectl("exec", "prober", "--", "touch", "/tmp/stop")
        ended = until("the prober ends", lambda: space.get("pod", "prober")["status"]["phase"] in ("Succeeded", "Failed"), 900)
        assert ended
        report.update(json.loads(space.kubectl("logs", "prober").strip().splitlines()[-1]))
    finally:
        space.kubectl("delete", "pod", "prober", "--now", "--ignore-not-found", "--wait")


def judge(report: dict[str, Any], least: int) -> None:
    """Success 1.0000; not judged where the prober itself could not keep its rate."""
    print(f"\nprober: {json.dumps({k: v for k, v in report.items() if k != 'failures'})}")
    assert report["failed"] == 0, json.dumps(report["failures"], indent=1)
    if report["rate_kept"] < 0.9 * report["rate_wanted"]:
        pytest.skip(
            f"not judged: the prober kept {report['rate_kept']} of {report['rate_wanted']} requests a second; the machine is too busy"
        )
    assert report["requests"] >= least
