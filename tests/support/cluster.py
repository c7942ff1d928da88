"""Our kind cluster as tests see it: namespaces that come and go, Helm releases in them, and what to read when something fails."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pilothouse.smoke.client import Client
from support.chart import CHART, ROOT, Values, merge

T = TypeVar("T")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "pilothouse" / "kind"
KUBECONFIG = CACHE / "kubeconfig"
CONTEXT = "kind-pilothouse"
ENVIRONMENT = {**os.environ, "PATH": f"{CACHE / 'bin'}:{os.environ['PATH']}", "KUBECONFIG": str(KUBECONFIG)}
FULL = os.environ.get("PILOTHOUSE_TEST_DEPTH") == "full"
# What a test pod of the embedded model needs: several must fit a small machine.
SMALL: Values = {
    "profiles": {
        "cpu": {"startSeconds": 120, "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}}
    }
}


def until(what: str, ask: Callable[[], T | None], seconds: float = 60.0) -> T:
    """The first answer of `ask` that is not empty; a failed assertion that names `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"after {seconds:.0f} s there is still not: {what}"
        time.sleep(0.5)


@dataclass(frozen=True)
class Space:
    """One namespace of the cluster."""

    name: str

    def kubectl(self, *arguments: str, stdin: str | bytes | None = None, check: bool = True, seconds: float = 120.0) -> str:
        """Run kubectl in this namespace of our own cluster, and of no other."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        command = ["kubectl", "--context", CONTEXT, "--namespace", self.name, *arguments]
        done = subprocess.run(command, env=ENVIRONMENT, input=data, capture_output=True, timeout=seconds)
        assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stderr.decode()[-2000:]}"
        return (done.stdout + (b"" if check else done.stderr)).decode()

    def get(self, *arguments: str) -> Any:
        """The object, or the items of the list, as JSON."""
        found = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found["items"] if found["kind"] == "List" else found

    def apply(self, *manifests: dict[str, Any]) -> None:
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)}))

    def event(self, text: str, seconds: float = 60.0) -> str:
        """The message of the first event that holds `text`."""

        def look() -> str | None:
            return next((e["message"] for e in self.get("events") if text in (e.get("message") or "")), None)

        return until(f"an event that says {text!r}", look, seconds)


@dataclass(frozen=True)
class Release:
    """One Helm release of our chart in a namespace."""

    space: Space
    name: str = "phi3"

    @property
    def full(self) -> str:
        return f"{self.name}-pilothouse"

    def helm(self, command: str, *arguments: str, values: Values | None = None, check: bool = True, seconds: float = 240.0) -> str:
        """Run Helm on this release; with `values`, over our chart. Errors are part of what comes back when they are not checked."""
        chart = [str(CHART), "--values", "-"] if values is not None else []
        line = ["helm", "--kube-context", CONTEXT, "--namespace", self.space.name, command, self.name, *chart, *arguments]
        done = subprocess.run(line, env=ENVIRONMENT, input=json.dumps(values or {}), capture_output=True, text=True, timeout=seconds)
        assert done.returncode == 0 or not check, f"helm {command}: {done.stderr[-2000:]}"
        return done.stdout + ("" if check else done.stderr)

    def install(self, values: Values | None = None, *, wait: bool = True) -> str:
        """Install with small pods; `wait` until they answer."""
        return self.helm("install", *(["--wait", "--timeout", "150s"] if wait else []), values=merge(SMALL, values or {}))

    def upgrade(self, values: Values | None = None, *arguments: str, check: bool = True) -> str:
        return self.helm("upgrade", "--wait", "--timeout", "150s", *arguments, values=merge(SMALL, values or {}), check=check)

    def uninstall(self) -> None:
        self.helm("uninstall", "--wait", "--timeout", "120s")
        self.stopped()  # Helm waits for the Deployment, not for what it leaves draining

    def pods(self) -> list[dict[str, Any]]:
        """Pods of the server that are not on their way out, oldest first."""
        found = self.space.get("pods", "-l", f"app.kubernetes.io/name=pilothouse,app.kubernetes.io/instance={self.name}")
        staying = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(staying, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))

    def numbering(self, number: int) -> list[dict[str, Any]]:
        """Wait until exactly so many pods stay."""
        return until(f"{number} pods", lambda: found if len(found := self.pods()) == number else None)

    def stopped(self, seconds: float = 90.0) -> None:
        """Wait until no pod of the server is on its way out."""
        selector = f"app.kubernetes.io/name=pilothouse,app.kubernetes.io/instance={self.name}"
        until("all old pods are gone", lambda: len(self.space.get("pods", "-l", selector)) == len(self.pods()), seconds)

    @contextmanager
    def forward(self) -> Iterator[tuple[Client, str]]:
        """`kubectl port-forward` to the Service, on free ports of this machine: a REST client and the gRPC address."""
        line = ["kubectl", "--context", CONTEXT, "--namespace", self.space.name, "port-forward", f"service/{self.full}", ":8080", ":8081"]
        process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout
            ports: dict[str, str] = {}
            while len(ports) < 2:
                told = process.stdout.readline()
                assert told, f"port-forward ended: {process.stderr.read() if process.stderr else ''}"
                if found := re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)", told):
                    ports[found[2]] = found[1]
            yield Client(f"http://127.0.0.1:{ports['8080']}"), f"127.0.0.1:{ports['8081']}"
        finally:
            process.terminate()
            process.communicate(timeout=30)


def report(*namespaces: str) -> str:
    """Nodes, pods, events and logs, as scripts/kind-report prints them."""
    return subprocess.run([ROOT / "scripts/kind-report", *namespaces], env=ENVIRONMENT, capture_output=True, text=True, timeout=120).stdout
