"""`python -m pilothouse.operator`: run the operator. Its settings are the chart's: environment variables."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from pilothouse.operator.chart import Chart
from pilothouse.operator.cluster import connect
from pilothouse.operator.controller import Controller
from pilothouse.operator.handlers import Operator, Options
from pilothouse.operator.metrics import Metrics
from pilothouse.operator.registry import MlflowRegistry
from pilothouse.operator.spec import KIND
from pilothouse.operator.store import Store
from pilothouse.operator.turn import Tools

PREFIX = "PILOTHOUSE_OPERATOR_"


def main() -> int:
    """Exit code 0 after SIGTERM; 1 where the Lease was lost, so that the process begins anew; 2 where the CRD is missing."""
    logging.basicConfig(
        level=os.environ.get(f"{PREFIX}LOG_LEVEL", "INFO"), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    for noisy in ("kopf", "urllib3", "mlflow", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return asyncio.run(_run())


async def _run() -> int:
    cluster = await asyncio.to_thread(connect)
    if not await asyncio.to_thread(cluster.knows, KIND):
        print(
            "pilothouse.operator: the cluster has no LanguageModel; install its CRD with the operator's chart (crd.install)",
            file=sys.stderr,
        )
        return 2
    chart = Chart(await asyncio.to_thread(lambda: cluster.version))
    registry = MlflowRegistry(_path("REGISTRIES"), listed_only=_setting("LISTED_ONLY") == "true")
    store = Store()
    controller = Controller(Tools(cluster, chart, registry, store))
    options = Options(
        namespace=_setting("NAMESPACE", "default"),
        namespaces=tuple(name for name in _setting("NAMESPACES").split(",") if name),
        port=int(_setting("PORT", "8080")),
        lease=_setting("LEASE", "pilothouse-operator"),
        webhook_secret=_path("WEBHOOK_SECRET"),
    )
    operator = Operator(options, cluster, controller, store, registry, Metrics(), lambda: chart.renders)
    task = asyncio.current_task()
    assert task
    told = []

    def stop() -> None:
        told.append(True)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        await operator.run()
    except asyncio.CancelledError:
        if not told:
            raise
    return 0 if told else 1


def _setting(name: str, otherwise: str = "") -> str:
    return os.environ.get(PREFIX + name, otherwise)


def _path(name: str) -> Path | None:
    return Path(_setting(name)) if _setting(name) else None


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    # Threads that wait for an answer of a registry or of the API server don't hold the process up; what they were at is begun again.
    os._exit(code)
