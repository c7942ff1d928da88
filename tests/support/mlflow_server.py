"""A real `mlflow server` on SQLite, in a process group of its own, for tests that speak to it over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UP = "Application startup complete"
PATIENCE = 240.0  # seconds: making its tables takes a while on a busy machine


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """The address of a server that is up, its database and files in `home`; its process group is ended on the way out."""
    port = free_port()
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("mlflow")),
            "server",
            *("--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "files")),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        ],
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": "", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=200)
    told = threading.Event()

    def read() -> None:  # to the end: a pipe that nobody reads would stop it
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if UP in line:
                told.set()
        told.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        if not told.wait(PATIENCE) or process.poll() is not None:
            raise AssertionError("the MLflow server did not come up:\n" + "".join(said))
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        reader.join(60)
        if process.stdout is not None:
            process.stdout.close()
