"""A real `mlflow server` with a SQLite back end, in a process group of its own."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilothouse.models.packaging import Packaged

UP = "Application startup complete"
WEBHOOKS = {
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": "cGlsb3Rob3VzZS10ZXN0cy1rZWVwLW5vLXNlY3JldHM=",
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
}
"""What lets a server of MLflow deliver to an address of this machine, and to one that was named a moment ago."""


@dataclass(frozen=True)
class Server:
    """A running server; `files` is where it keeps artifacts."""

    url: str
    files: Path
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """End it and its workers; nothing where they ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.communicate(timeout=60)


@dataclass(frozen=True)
class World:
    """A registered model of a test's own with its packaged versions, in order."""

    uri: str
    name: str
    versions: "tuple[Packaged, ...]"

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(tracking_uri=self.uri)

    def tags(self, number: str) -> dict[str, str]:
        return dict(self.client.get_model_version(self.name, number).tags)

    def holder(self, alias: str) -> str:
        return str(self.client.get_model_version_by_alias(self.name, alias).version)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def server(home: Path) -> Iterator[Server]:
    """The server, up; its files are behind its own artifact route. Ended afterwards."""
    port = free_port()
    log = home / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("mlflow")),
                "server",
                *("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "files")),
                *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            ],
            env={
                **os.environ,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_TRACKING_URI": "",
                **WEBHOOKS,
            },
            cwd=home,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    running = Server(f"http://127.0.0.1:{port}", home / "files", process)
    try:
        with subprocess.Popen(["tail", "-n", "+1", "-f", f"--pid={process.pid}", str(log)], stdout=subprocess.PIPE, text=True) as lines:
            assert lines.stdout is not None
            try:
                if not any(UP in line for line in lines.stdout):  # tail ends with the server
                    raise AssertionError(f"mlflow server did not come up:\n{log.read_text()[-4000:]}")
            finally:
                lines.kill()
        yield running
    finally:
        running.stop()
