"""The chart, rendered by Helm: the one place where a LanguageModel's values become objects."""

import json
import os
import re
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pilothouse.operator.spec import Object
from pilothouse.operator.values import digest_of

CHART = Path(os.environ.get("PILOTHOUSE_OPERATOR_CHART", "/opt/charts/pilothouse"))
PATIENCE = 60.0
HOOK = "helm.sh/hook"


class ChartRefused(Exception):
    """The chart's schema or rules refuse these values; the message is the chart's own, with the way out."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a release is made of. `check` is the chart's own test pod; None where the chart has none for these values."""

    objects: tuple[Object, ...]
    check: Object | None

    def one(self, kind: str) -> Object:
        (found,) = [o for o in self.objects if o["kind"] == kind]
        return found

    @property
    def pod_template(self) -> Object:
        template: Object = self.one("Deployment")["spec"]["template"]
        return template


class Chart:
    """`helm template` over the chart in `folder`, for a cluster of `version`; the last renders are kept, since most of them repeat."""

    def __init__(self, version: str, folder: Path = CHART, kept: int = 1024) -> None:
        self._version, self._folder, self._most = version, folder, kept
        self._kept: OrderedDict[str, Rendered] = OrderedDict()
        self._lock = threading.Lock()
        self._running = threading.Semaphore(max(1, os.cpu_count() or 1))  # a program each: more at once would only be slower
        self.renders = 0

    def render(self, release: str, namespace: str, values: Mapping[str, Any]) -> Rendered:
        """The objects of one release; nobody may change them. Raises `ChartRefused`."""
        key = digest_of({"release": release, "namespace": namespace, "values": values})
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = self._run(release, namespace, values)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made

    def _run(self, release: str, namespace: str, values: Mapping[str, Any]) -> Rendered:
        command = [
            "helm",
            "template",
            release,
            str(self._folder),
            "--namespace",
            namespace,
            "--kube-version",
            self._version,
            "--values",
            "-",
        ]
        with self._running:
            self.renders += 1
            done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode != 0:
            raise ChartRefused(_said(done.stderr))
        found = [o for o in yaml.load_all(done.stdout, Loader=_LOADER) if o]
        hooks = [o for o in found if HOOK in (o["metadata"].get("annotations") or {})]
        objects = tuple(o for o in found if HOOK not in (o["metadata"].get("annotations") or {}))
        return Rendered(objects, next((o for o in hooks if o["kind"] == "Pod"), None))


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _said(stderr: str) -> str:
    """Helm's error as one line, without what it says about itself and where in the template it was."""
    text = re.sub(r" Use --debug flag .*$", "", " ".join(stderr.split()))
    return re.split(r"^Error: |execution error at \([^)]*\): |error calling fail: |in the following chart\(s\): ", text)[-1][:1000]
