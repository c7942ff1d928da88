"""A server of ours in a process of its own, for tests that speak to it as a user would."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.smoke.client import Client
from support import planted

PATIENCE = 120.0
SCRIPTED = str(Path(__file__).with_name("serve_scripted.py"))


@dataclass(frozen=True)
class Served:
    """A running server: its process and its addresses."""

    process: subprocess.Popen[str]
    rest: str
    grpc: str
    metrics: str
    model: str
    log: Path

    @property
    def client(self) -> Client:
        return Client(self.rest)


@contextmanager
def served(
    *arguments: str, scripted: bool = False, counted: bool = False, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[Served]:
    """`pilothouse serve ARGUMENTS` on free ports, with `settings` (and `environment`) in its environment; stopped, by its id, on the way out.

    `scripted`: the scripted engine instead (tests/support/serve_scripted.py). `counted`: the test counts what the server was asked, to its end; no
    secret is planted into it.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        os.mkfifo(ready)
        variables = {**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1", "PILOTHOUSE_LAME_DUCK_SECONDS": "0.2"}
        ports = {"rest_port": 0, "grpc_port": 0, "metrics_port": 0}
        variables |= {f"PILOTHOUSE_{name.upper()}": str(value) for name, value in (ports | settings).items()}
        serve = [SCRIPTED, str(ready)] if scripted else ["-m", "pilothouse.cli", "serve", *arguments, "--ready-file", str(ready)]
        with log.open("w") as out:
            process = subprocess.Popen([sys.executable, *serve], env=variables, stdout=out, stderr=subprocess.STDOUT, text=True)
        metrics = b""
        try:
            addresses = _addresses(process, ready, log)
            yield Served(process, addresses["rest"], addresses["grpc"], addresses["metrics"], addresses["model"], log)
            if process.poll() is None and planted.PLACE in os.environ and not counted:
                planted.plant(addresses["rest"], addresses["model"])
                metrics = planted.scraped(addresses["metrics"])
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            planted.keep(f"served-{process.pid}", log, metrics=metrics)


def _addresses(process: "subprocess.Popen[str]", ready: Path, log: Path) -> dict[str, Any]:
    """What the server writes to its ready file, a pipe here: reading it waits for the server, and ends when the server does."""
    with subprocess.Popen(["cat", str(ready)], stdout=subprocess.PIPE, text=True) as reader:
        try:
            for _ in range(int(PATIENCE * 4)):
                try:
                    text, _ = reader.communicate(timeout=0.25)
                    return dict(json.loads(text))
                except subprocess.TimeoutExpired:
                    if process.poll() is not None:
                        break
        finally:
            reader.kill()
    raise AssertionError(f"the server did not come up (exit code {process.poll()}):\n{log.read_text()[-4000:]}")
