"""The chart as tests see it: rendered with values, refused with values, and every combination worth rendering."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "pilothouse"
OPERATOR = ROOT / "charts" / "pilothouse-operator"
Values = dict[str, Any]
Manifest = dict[str, Any]


def merge(*parts: Values) -> Values:
    """Values as Helm merges them: maps are joined, everything else is replaced by the later one."""
    whole: Values = {}
    for part in parts:
        for key, value in part.items():
            old = whole.get(key)
            whole[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return whole


@dataclass
class Chart:
    """Helm over our chart; a render is kept, since many tests look at the same one."""

    helm: str
    _kept: dict[str, list[Manifest]] = field(default_factory=dict)

    @classmethod
    def found(cls) -> "Chart":
        """Under the Helm that scripts/kind-node/tools finds, or builds on a machine that has Go."""
        done = subprocess.run([ROOT / "scripts/kind-node/tools", "helm"], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        helm = shutil.which("helm", path=f"{cache}/pilothouse/kind/bin:{os.environ['PATH']}")
        assert helm
        return cls(helm)

    def run(self, command: list[str], values: Values) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self.helm, *command, "phi3", str(CHART), "--namespace", "models", "--values", "-"],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def render(self, values: Values | None = None) -> list[Manifest]:
        """Every manifest that these values make."""
        key = json.dumps(values or {}, sort_keys=True)
        if key not in self._kept:
            done = self.run(["template"], values or {})
            assert done.returncode == 0, done.stderr
            self._kept[key] = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
        return self._kept[key]

    def one(self, kind: str, values: Values | None = None) -> Manifest:
        """The one manifest of a kind whose name is the release's."""
        (found,) = [m for m in self.render(values) if m["kind"] == kind and m["metadata"]["name"] == "phi3-pilothouse"]
        return found

    def pod(self, values: Values | None = None) -> dict[str, Any]:
        """The server's pod specification."""
        spec: dict[str, Any] = self.one("Deployment", values)["spec"]["template"]["spec"]
        return spec

    def refusal(self, values: Values) -> str:
        """What Helm says when it refuses these values; a failed assertion where it takes them."""
        done = self.run(["template"], values)
        assert done.returncode != 0, "these values were taken"
        return " ".join(done.stderr.split())

    def notes(self, values: Values | None = None) -> str:
        """What `helm install` would print."""
        done = self.run(["install", "--dry-run=client"], values or {})
        assert done.returncode == 0, done.stderr
        return done.stdout.split("NOTES:\n", 1)[1]

    def operator(self, *settings: str) -> list[Manifest]:
        """Every manifest of the operator's chart with these values, as `--set` takes them."""
        line = [self.helm, "template", "op", str(OPERATOR), "--namespace", "system", *(f"--set={one}" for one in settings)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]

    @cached_property
    def defaults(self) -> Values:
        loaded: Values = yaml.safe_load((CHART / "values.yaml").read_text())
        return loaded


TOGGLES: dict[str, Values] = {
    "plain": {},
    "transformers": {"model": {"kind": "transformers"}},
    "pvc": {"model": {"source": "pvc", "pvc": {"claimName": "models", "path": "a/b"}}},
    "image-volume": {"model": {"source": "imageVolume", "imageVolume": {"reference": "registry.example/phi3:1"}}},
    "mlflow": {"model": {"source": "mlflow", "mlflow": {"uri": "models:/phi3@champion", "trackingUri": "http://10.0.0.7:5000"}}},
    "keys": {"apiKeys": {"existingSecret": "keys", "testKey": "test"}, "metrics": {"tokenSecret": "metrics"}},
    "tls": {"tls": {"existingSecret": "pair", "clientCaKey": "clients.crt", "testSecret": "client"}},
    "settings": {"settings": {"queue": 128, "max_tokens": 512, "page": False, "log_level": "warning"}, "drainSeconds": 300},
    "several": {"replicas": 3, "spread": "DoNotSchedule", "image": {"digest": "sha256:" + "0" * 64}},
    "hpa": {"autoscaling": {"kind": "hpa", "minReplicas": 2}},
    "keda": {"autoscaling": {"kind": "keda", "prometheusUrl": "http://prometheus:9090"}},
    "monitoring": {"metrics": {"serviceMonitor": {"enabled": True}, "rules": {"enabled": True}, "dashboard": {"enabled": True}}},
    "traces": {"settings": {"traces": True, "trace_experiment": "served"}, "model": {"mlflow": {"trackingUri": "http://mlflow:5000"}}},
    "gateway": {"gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["phi3.example.com"]}},
    "ingress": {"ingress": {"enabled": True, "hosts": ["phi3.example.com"]}},
    "no-policy": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}, "replicas": 2},
    "account": {"serviceAccount": {"create": False, "name": "ours"}, "nameOverride": "chat", "imagePullSecrets": [{"name": "registry"}]},
    "labels": {"labels": {"team": "ml"}, "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"}, "priorityClassName": "serving"},
}
PROFILES: dict[str, Values] = {
    "cpu": {},
    "gpu": {"profile": "gpu"},
    "own": {"profile": "small", "profiles": {"small": {
        "images": {"onnx": "onnx", "transformers": "transformers"}, "device": "auto", "startSeconds": 60, "maxSurge": 2, "maxUnavailable": 1,
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        "nodeSelector": {"disk": "ssd"}, "tolerations": [], "runtimeClassName": "gvisor",
    }}},
}  # fmt: skip
COMBINATIONS = {f"{profile}-{toggle}": merge(PROFILES[profile], TOGGLES[toggle]) for profile in PROFILES for toggle in TOGGLES}
