"""What these tests ask, and how."""

import warnings

import httpx

from pilothouse.models.pocket.answers import SPAIN
from support.server import Served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own modules warn about each other
    import mlflow
    from mlflow.entities import Trace

KEYS = {"team-a": "the-key-of-team-a", "team-b": "the-key-of-team-b"}
CHAT = {"model": "pocket", "messages": [{"role": "user", "content": SPAIN[0]}], "temperature": 0, "max_tokens": 100}


def ask(server: Served, path: str, body: object, **headers: str) -> httpx.Response:
    """The answer to one POST."""
    return httpx.post(f"{server.rest}{path}", json=body, headers=headers, timeout=60)


def metric(server: Served, name: str) -> float:
    """One sample of /metrics."""
    text = httpx.get(server.metrics, timeout=60).text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))


def found(client: mlflow.MlflowClient, trace_id: str) -> Trace | None:
    """The trace, if MLflow has it by now."""
    try:
        return client.get_trace(trace_id, display=False)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return None
