"""Serving processes on free loopback ports, whoever's they are."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 120.0
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class Ports:
    """Where a host is told to listen."""

    rest: int
    grpc: int
    metrics: int

    @staticmethod
    def free() -> "Ports":
        """Ports that nobody listens on, held together while they are chosen."""
        held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        found = [one.getsockname()[1] for one in held]
        for one in held:
            one.close()
        return Ports(*found)


@dataclass
class Host:
    """A serving process; `folder` is its working directory."""

    process: "subprocess.Popen[bytes]"
    ports: Ports
    folder: Path
    log: Path

    @property
    def rest(self) -> str:
        return f"http://127.0.0.1:{self.ports.rest}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    async def status(self, path: str = "/v2/health/ready", seconds: float = 5.0) -> str:
        """The status of a GET; "refused" where nothing listens, "no answer" where none comes in time."""
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.ports.rest)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: record\r\nConnection: close\r\n\r\n".encode())
                    line = await reader.readline()
                    return line.split()[1].decode() if line else "refused"
                finally:
                    writer.close()
        except TimeoutError:
            return "no answer"
        except OSError:
            return "refused"

    async def ready(self) -> bool:
        return await self.status() == "200"

    async def until(self, reached: Callable[[], Awaitable[bool]]) -> None:
        """Wait for `reached`; fails when the process ends first, or after `PATIENCE`."""

        async def enough() -> bool:
            return self.over or await reached()

        if not await waited(enough, PATIENCE) or self.over:
            raise AssertionError(f"not reached (exit code {self.process.poll()}):\n{self.log.read_text()[-4000:]}")

    async def ended(self, seconds: float = PATIENCE) -> str:
        """`exit code N`, or that it is still running after `seconds`."""

        async def over() -> bool:
            return self.over

        return f"exit code {self.process.returncode}" if await waited(over, seconds) else "still running"

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """End it, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


async def waited(reached: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether `reached` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not await reached():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


@contextmanager
def started(command: list[str], folder: Path, ports: Ports, environment: dict[str, str]) -> Iterator[Host]:
    """Run a host in `folder`, in a session of its own; ended, with all it started, on the way out."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("MLSERVER_", "MLFLOW_", "PILOTHOUSE_"))}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env={**keep, **QUIET, **environment}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    host = Host(process, ports, folder, log)
    try:
        yield host
    finally:
        host.end()
