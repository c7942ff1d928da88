"""Driving Helm beside rendering the chart and applying it server-side: what one look at one resource costs, with nothing changed.

`KUBECONFIG=... PILOTHOUSE_OPERATOR_CHART=charts/pilothouse python benchmarks/operator_apply.py NAMESPACE [TIMES]` on a cluster of your own.
Both are asked in turn, so that the machine's other work falls on both.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from pilothouse.operator.chart import CHART, Chart
from pilothouse.operator.cluster import connect

VALUES = {"replicas": 0, "fullnameOverride": "by-apply", "podAnnotations": {}}


def main(namespace: str, times: int) -> None:
    cluster = connect()

    def helm() -> None:
        line = ["helm", "upgrade", "--install", "by-helm", str(CHART), "--namespace", namespace, "--values", "-"]
        subprocess.run(line, input=json.dumps({"replicas": 0}), text=True, check=True, capture_output=True)

    def rendered(chart: Chart) -> None:
        for body in chart.render("by-apply", namespace, VALUES).objects:
            cluster.apply(json.loads(json.dumps(body)))

    kept = Chart(cluster.version)
    ways: dict[str, Callable[[], None]] = {
        "helm upgrade --install": helm,
        "helm template and server-side apply": lambda: rendered(Chart(cluster.version)),
        "server-side apply of a kept render": lambda: rendered(kept),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(times + 1):
        for name, way in ways.items():
            begun = time.monotonic()
            way()
            if turn:
                seconds[name].append(time.monotonic() - begun)
    for name, taken in seconds.items():
        print(f"{name}: median {statistics.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f}), {times} times")
    subprocess.run(["helm", "uninstall", "by-helm", "--namespace", namespace], check=True, capture_output=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7)
