"""The operator on our kind cluster as tests see it: installed by its chart, a real MLflow server beside it, and LanguageModels."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilothouse.smoke.client import Client
from support.chart import ROOT, Values, merge
from support.cluster import CONTEXT, ENVIRONMENT, SMALL, Space, until
from support.tracking import WEBHOOKS

CHART = ROOT / "charts" / "pilothouse-operator"
MLFLOW = os.environ.get("PILOTHOUSE_TEST_MLFLOW", "pilothouse-test-mlflow:3.17.2")
LABEL = "pilothouse.org/languagemodel"
SECRET = "the webhooks of these tests are signed by this"
Object = dict[str, Any]


@contextmanager
def forwarded(space: Space, target: str, port: int) -> Iterator[str]:
    """`kubectl port-forward` to one port; the URL on this machine."""
    line = ["kubectl", "--context", CONTEXT, "--namespace", space.name, "port-forward", target, f":{port}"]
    process = subprocess.Popen(line, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        told = process.stdout.readline()
        found = re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", told)
        assert found, f"port-forward ended: {process.stderr.read() if process.stderr else ''}"
        yield f"http://127.0.0.1:{found[1]}"
    finally:
        process.terminate()
        process.communicate(timeout=30)


@dataclass(frozen=True)
class Operator:
    """The operator's own release."""

    space: Space
    name: str = "pilothouse-operator"

    def install(self, *settings: str) -> None:
        """Install or upgrade, with webhooks, and wait until it is ready. Two replicas on nodes that have the image."""
        self.space.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "webhook"}, "stringData": {"secret": SECRET}})
        line = ["helm", "--kube-context", CONTEXT, "--namespace", self.space.name, "upgrade", "--install", self.name, str(CHART), "--wait"]
        line += [
            "--timeout",
            "120s",
            "--set",
            "nodeSelector.pilothouse/pool=cpu",
            "--set",
            "webhook.existingSecret=webhook",
            *(f"--set={one}" for one in settings),
        ]
        done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr[-2000:]

    def leader(self) -> str:
        """The pod that holds the Lease."""
        holder: str = self.space.get("lease", self.name)["spec"]["holderIdentity"]
        return holder

    def pods(self) -> list[Object]:
        found: list[Object] = self.space.get("pods", "-l", f"app.kubernetes.io/name={self.name}")
        return found

    def waiting(self) -> Object:
        """The pod that does not lead."""
        return next(pod for pod in self.pods() if pod["metadata"]["name"] != self.leader() and "deletionTimestamp" not in pod["metadata"])

    def metrics(self) -> dict[str, float]:
        """Samples of the leader's exposition, by name and labels."""
        with forwarded(self.space, f"pod/{self.leader()}", 8080) as url:
            text = Client(url).get("/metrics").body.decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"(?m)^([a-z_]+(?:\{[^}]*\})?) (\S+)$", text)}


@dataclass(frozen=True)
class Registry:
    """An MLflow server in the cluster, with its files on a claim, so that it can be stopped and started."""

    space: Space

    @property
    def url(self) -> str:
        return f"http://mlflow.{self.space.name}.svc:5000"

    def start(self) -> None:
        node = min(n["metadata"]["name"] for n in self.space.get("nodes", "-l", "pilothouse/pool=cpu"))
        container = {
            "name": "mlflow",
            "image": MLFLOW,
            "ports": [{"containerPort": 5000}],
            "env": [{"name": name, "value": value} for name, value in WEBHOOKS.items()],
            "readinessProbe": {"httpGet": {"path": "/health", "port": 5000}, "periodSeconds": 2, "timeoutSeconds": 5},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
        }
        pod = {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 2,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "mlflow"}}, {"name": "tmp", "emptyDir": {}}],
        }
        labels = {"app": "mlflow"}
        self.space.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "mlflow"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "mlflow"},
                "spec": {
                    "replicas": 1,
                    "strategy": {"type": "Recreate"},
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": pod},
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "mlflow"},
                "spec": {"selector": labels, "ports": [{"port": 5000}]},
            },
        )
        self.up()

    def up(self) -> None:
        self.space.kubectl("scale", "deployment/mlflow", "--replicas=1")
        self.space.kubectl("rollout", "status", "deployment/mlflow", "--timeout=240s", seconds=250)

    def down(self) -> None:
        self.space.kubectl("scale", "deployment/mlflow", "--replicas=0")
        until("the registry is gone", lambda: not self.space.get("pods", "-l", "app=mlflow"))

    @contextmanager
    def reached(self) -> Iterator[str]:
        with forwarded(self.space, "service/mlflow", 5000) as url:
            yield url

    def package(self, folder: Path, name: str) -> str:
        """Register the ONNX folder as `name`; its version."""
        with self.reached() as url:
            line = [
                sys.executable,
                "-m",
                "pilothouse.cli",
                "package",
                "onnx",
                str(folder),
                "--tracking-uri",
                url,
                "--register",
                name,
                "--json",
            ]
            environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
            done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=180, cwd=folder.parent)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout.strip().splitlines()[-1])["version"])

    def foreign(self, name: str) -> str:
        """Register a pyfunc that is no language model; its version."""
        code = (
            "import sys, warnings; warnings.simplefilter('ignore'); import mlflow, mlflow.pyfunc\n"
            "mlflow.set_tracking_uri(sys.argv[1])\n"
            "class Other(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input: list[str]) -> list[str]: return model_input\n"
            "made = mlflow.pyfunc.log_model(name='other', python_model=Other(), pip_requirements=[], registered_model_name=sys.argv[2])\n"
            "print(made.registered_model_version)\n"
        )
        with self.reached() as url:
            environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
            done = subprocess.run([sys.executable, "-c", code, url, name], env=environment, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().splitlines()[-1]

    def point(self, name: str, alias: str, version: str) -> None:
        """Move the alias."""
        with self.reached() as url:
            body = {"name": name, "alias": alias, "version": version}
            assert Client(url).post("/api/2.0/mlflow/registered-models/alias", body).status == 200

    def webhook(self, url: str) -> None:
        """Have moved aliases delivered there, signed by `SECRET`."""
        with self.reached() as own:
            events = [{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}]
            made = Client(own).post("/api/2.0/mlflow/webhooks", {"name": "tests", "url": url, "secret": SECRET, "events": events})
        assert made.status == 200, made.body

    def tags(self, name: str, version: str) -> dict[str, str]:
        with self.reached() as url:
            found = Client(url).get(f"/api/2.0/mlflow/model-versions/get?name={name}&version={version}").json["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}

    def tamper(self, name: str, version: str) -> None:
        """Change one byte of that version's weights where the server keeps them."""
        with self.reached() as url:
            asked = Client(url).get(f"/api/2.0/mlflow/model-versions/get?name={name}&version={version}").json["model_version"]
        model = asked.get("model_id") or asked["source"].rpartition("/")[2]
        code = (
            "import glob, sys\n"
            "(path,) = [p for p in glob.glob('/data/artifacts/**/model.onnx.data', recursive=True) if sys.argv[1] in p]\n"
            "f = open(path, 'r+b'); f.seek(-1, 2); b = f.read(1); f.seek(-1, 2); f.write(bytes([b[0] ^ 1]))"
        )
        self.space.kubectl("exec", "deployment/mlflow", "--", "python3", "-c", code, model)


@dataclass(frozen=True)
class Served:
    """One LanguageModel."""

    space: Space
    name: str

    @property
    def full(self) -> str:
        """Its Service."""
        return self.name

    def apply(self, spec: Object, *, check: bool = True, **metadata: Any) -> str:
        """Apply it with small pods; what kubectl said."""
        body = {
            "apiVersion": "pilothouse.org/v1alpha1",
            "kind": "LanguageModel",
            "metadata": {"name": self.name, "namespace": self.space.name, **metadata},
            "spec": merge({"values": SMALL}, spec),
        }
        return self.space.kubectl("apply", "-f", "-", stdin=json.dumps(body), check=check)

    def patch(self, spec: Object) -> None:
        self.space.kubectl("patch", "languagemodel", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def body(self) -> Object:
        found: Object = self.space.get("languagemodel", self.name)
        return found

    @property
    def status(self) -> Object:
        return self.body().get("status") or {}

    def condition(self, kind: str) -> tuple[str, str, str]:
        """Status, reason and message."""
        found = next((c for c in self.status.get("conditions", ()) if c["type"] == kind), {"status": "", "reason": "", "message": ""})
        return found["status"], found["reason"], found["message"]

    def reason(self, kind: str, reason: str, seconds: float = 90.0) -> str:
        """Wait for a condition of that reason; its message."""

        def look() -> str | None:
            _, found, message = self.condition(kind)
            return (message or "-") if found == reason else None

        try:
            return until(f"{self.name} is {kind}/{reason}", look, seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {json.dumps(self.status, indent=1)}") from None

    def serving(self, version: str | None = None, seconds: float = 150.0) -> Object:
        """Wait until what is asked for serves, as `version` where that is named; the status."""

        def look() -> Object | None:
            status = self.status
            found = {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", ())}
            calm = found.get("Ready", ("",))[0] == "True" and found["Progressing"] == ("False", "UpToDate")
            fresh = status.get("observedGeneration") == self.body()["metadata"]["generation"]
            return status if calm and fresh and version in (None, status.get("version")) else None

        try:
            return until(f"{self.name} serves {version or ''}", look, seconds)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {json.dumps(self.status, indent=1)}") from None

    def pods(self) -> set[str]:
        """Uids of the serving release's pods that stay."""
        found = self.space.get("pods", "-l", f"app.kubernetes.io/instance={self.name},app.kubernetes.io/name=pilothouse")
        return {pod["metadata"]["uid"] for pod in found if "deletionTimestamp" not in pod["metadata"]}

    def owned(self) -> set[str]:
        """Everything of it, by kind and name."""
        kinds = "deployments,services,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,controllerrevisions,pods"
        return {f"{o['kind']}/{o['metadata']['name']}" for o in self.space.get(kinds, "-l", f"{LABEL}={self.name}")}

    @contextmanager
    def forward(self) -> Iterator[Client]:
        with forwarded(self.space, f"service/{self.name}", 8080) as url:
            yield Client(url)

    def remove(self) -> None:
        self.space.kubectl("delete", "languagemodel", self.name, "--ignore-not-found", "--wait", "--timeout=60s")


def from_registry(registry: Registry, name: str, alias: str = "champion", **rollout: Any) -> Values:
    """A specification that follows an alias."""
    uri = f"models:/{name}@{alias}"
    return {"source": {"registry": {"uri": uri, "trackingUri": registry.url, "pollSeconds": 2}}, "modelName": "phi3", "rollout": rollout}
