"""The seam: a peer is something that is started, runs loads, and is stopped. Where it runs is its own business."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from loads import Request, Told, dumped

HERE = Path(__file__).parent
LARGE_PAGES = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1"
    ":glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=268435456"
}
"""Of 2 MiB, as our images and scripts/serve ask for: ours have them, and OpenVINO's own, which has the same kernels."""


class Peer(Protocol):
    """`facts` are known once it is started: version, flags, precision."""

    name: str
    facts: dict[str, Any]

    def start(self) -> None:
        """Load the model; whatever has to be made or installed is, first."""

    def run(self, requests: Sequence[Request], clients: int | None = None) -> Told:
        """Send the requests at their times, or have so many `clients` ask one after the other; wait for the last token."""

    def stop(self) -> None: ...


class Child:
    """A peer in an interpreter of its own environment, spoken to in JSON lines. `variables` are set beside this process's own."""

    def __init__(self, name: str, python: Path | str, script: str, *arguments: str, log: Path, variables: Mapping[str, str] = {}) -> None:
        self.name = name
        self._variables = variables
        self.facts: dict[str, Any] = {}
        self._command = [str(python), "-W", "ignore", str(HERE / script), *arguments]
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("w"), text=True,
            env={**os.environ, **self._variables},
        )  # fmt: skip
        self.facts = self._hear()

    def run(self, requests: Sequence[Request], clients: int | None = None) -> Told:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(dumped(requests, clients) + "\n")
        self._process.stdin.flush()
        return Told(**self._hear())

    def _hear(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}; see {self._log}")
        told: dict[str, Any] = json.loads(line)
        return told

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
