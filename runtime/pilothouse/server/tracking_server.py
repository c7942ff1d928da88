"""MLflow's tracking server over its REST API: the experiment that traces go to, and feedback on one of them.

MLflow's own client is left out on purpose: importing it takes seconds and 170 MB, in a server that needs neither. Credentials and TLS are
read from the environment under MLflow's own names.
"""

import os
import re
import threading
from typing import Any

import requests

from pilothouse.errors import StartError
from pilothouse.models import tracking

EXPERIMENT_HEADER = "x-mlflow-experiment-id"
SECONDS = 10.0  # for one request


class ServerFailed(Exception):
    """The tracking server did not answer, or not with what was asked for; its text is for the log."""


class UnknownTrace(Exception):
    """It has no such trace in the experiment, or not yet."""


class TrackingServer:
    """One tracking server and one of its experiments, by name; for any thread."""

    def __init__(self, address: str, experiment: str) -> None:
        """Asks nothing of the server yet. Raises `StartError` where `address` is none of a server."""
        if not re.match(r"https?://", address):
            raise StartError(
                f"traces go to an MLflow tracking server, and {tracking.shown(address)} is none: name one (http://...) in tracking_uri"
            )
        self.address = address.rstrip("/")
        self.shown = tracking.shown(self.address)
        self.session = _session()
        self._experiment = experiment
        self._id: str | None = None
        self._lock = threading.Lock()

    def experiment(self) -> str:
        """The experiment's id; made where the server has none of that name. Raises `ServerFailed`."""
        with self._lock:
            if self._id is None:
                self._id = self._found() or self._made()
            return self._id

    def forget(self) -> None:
        """Ask for the experiment again next time: the server may be another one by now."""
        self._id = None

    def trace(self, trace_id: str) -> dict[str, str]:
        """The tags of a trace of our experiment. Raises `UnknownTrace`, `ServerFailed`."""
        info = self._ask("GET", f"/api/3.0/mlflow/traces/{trace_id}", missing=UnknownTrace)["trace"]["trace_info"]
        if info["trace_location"].get("mlflow_experiment", {}).get("experiment_id") != self.experiment():
            raise UnknownTrace
        return dict(info.get("tags") or {})

    def assess(self, trace_id: str, assessment: dict[str, Any]) -> str:
        """Add an assessment, in MLflow's form, to a trace; its id. Raises `UnknownTrace`, `ServerFailed`."""
        path = f"/api/3.0/mlflow/traces/{trace_id}/assessments"
        made = self._ask("POST", path, json={"assessment": {"trace_id": trace_id, **assessment}}, missing=UnknownTrace)
        return str(made["assessment"]["assessment_id"])

    def _found(self) -> str | None:
        try:
            found = self._ask(
                "GET", "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": self._experiment}, missing=UnknownTrace
            )
        except UnknownTrace:
            return None
        if found["experiment"].get("lifecycle_stage") == "deleted":
            raise ServerFailed(f"its experiment {self._experiment} is deleted: restore it, or name another in trace_experiment")
        return str(found["experiment"]["experiment_id"])

    def _made(self) -> str:
        return str(self._ask("POST", "/api/2.0/mlflow/experiments/create", json={"name": self._experiment})["experiment_id"])

    def _ask(self, method: str, path: str, missing: type[Exception] = ServerFailed, **more: Any) -> dict[str, Any]:
        try:
            answer = self.session.request(method, f"{self.address}{path}", timeout=SECONDS, allow_redirects=False, **more)
            body = answer.json() if answer.content else {}
        except (requests.RequestException, ValueError) as error:
            raise ServerFailed(type(error).__name__) from error
        if answer.status_code == 404:
            raise missing(f"{path} is unknown there")
        if answer.status_code != 200 or not isinstance(body, dict):
            raise ServerFailed(f"it answered {answer.status_code} to {path}")
        return body


def _session() -> requests.Session:
    """Connections with the credentials and the trust that MLflow's own client would have."""
    session = requests.Session()
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        session.headers["Authorization"] = f"Bearer {token}"
    elif user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        session.auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", ""))
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        session.verify = False
    elif trusted := os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"):
        session.verify = trusted
    if certificate := os.environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        session.cert = certificate
    return session
