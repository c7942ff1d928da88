"""The API server, as far as the controller writes to it: the one file that imports the `kubernetes` client (beside `leader`).

Requests are made by path, so that one method serves every kind the chart may make; every call is counted.
"""

import json
import os
import threading
from collections import Counter
from typing import Any
from urllib.parse import quote

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from pilothouse.operator.objects import MANAGER
from pilothouse.operator.spec import GROUP, KIND, PLURAL, VERSION, Key, Object

KINDS: dict[str, tuple[str, str]] = {
    "ConfigMap": ("v1", "configmaps"),
    "Event": ("v1", "events"),
    "Pod": ("v1", "pods"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Deployment": ("apps/v1", "deployments"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Ingress": ("networking.k8s.io/v1", "ingresses"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "GRPCRoute": ("gateway.networking.k8s.io/v1", "grpcroutes"),
    "ScaledObject": ("keda.sh/v1alpha1", "scaledobjects"),
    "ServiceMonitor": ("monitoring.coreos.com/v1", "servicemonitors"),
    "PrometheusRule": ("monitoring.coreos.com/v1", "prometheusrules"),
    KIND: (f"{GROUP}/{VERSION}", PLURAL),
}
"""Every kind that the chart may make, and ours: group and version, and the plural that paths have."""
TIMEOUT = 30.0


class Refused(Exception):
    """The API server refuses: `status` is HTTP's, the message its own words."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Unreachable(Exception):
    """The API server does not answer, or is busy; the same call may succeed later."""


class Cluster:
    """Writes and reads by the credentials of the pod, or of the kubeconfig where there is no pod. Safe in several threads."""

    def __init__(self, api: client.ApiClient, identity: str) -> None:
        self._api, self.identity = api, identity
        self._lock = threading.Lock()
        self.calls: Counter[str] = Counter()

    @property
    def version(self) -> str:
        """The server's version, as Helm takes it."""
        return str(json.loads(self._ask("GET", "/version"))["gitVersion"])

    def knows(self, kind: str) -> bool:
        """Whether the server has that kind at all."""
        version, plural = KINDS[kind]
        try:
            found = json.loads(self._ask("GET", f"/apis/{version}"))
        except Refused as refusal:
            if refusal.status == 404:
                return False
            raise
        return any(resource["name"] == plural for resource in found["resources"])

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object as it is now; None where there is none."""
        try:
            return self._object("GET", kind, namespace, name)
        except Refused as refusal:
            if refusal.status == 404:
                return None
            raise

    def deployments(self, namespace: str, selector: str) -> list[Object]:
        """Those that a label selector finds, whoever made them."""
        found = self._object("GET", "Deployment", namespace, "", query=[("labelSelector", selector)])
        items: list[Object] = found["items"]
        return items

    def apply(self, body: Object, manager: str = MANAGER) -> Object:
        """Server-side apply: the manager's fields become as they are in `body`, whoever changed them; everyone else's stay."""
        metadata = body["metadata"]
        query = [("fieldManager", manager), ("force", "true")]
        kind = "application/apply-patch+yaml"
        return self._object("PATCH", body["kind"], metadata["namespace"], metadata["name"], query=query, body=body, content=kind)

    def create(self, body: Object) -> Object | None:
        """Make it; None where one of that name is there already."""
        try:
            return self._object("POST", body["kind"], body["metadata"]["namespace"], "", body=body, query=[("fieldManager", MANAGER)])
        except Refused as refusal:
            if refusal.status == 409:
                return None
            raise

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Take it away, with what it owns; nothing where it is gone already."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            self._object("DELETE", kind, namespace, name, body=options)
        except Refused as refusal:
            if refusal.status != 404:
                raise

    def write_status(self, key: Key, status: Object, resource_version: str) -> Object:
        """Replace the status; a `Refused` of 409 where the resource has changed since `resource_version`."""
        body = {"metadata": {"resourceVersion": resource_version}, "status": status}
        return self._object("PATCH", KIND, key.namespace, f"{key.name}/status", body=body, content="application/merge-patch+json")

    def tell(self, key: Key, when: str) -> None:
        """Write into the status that the registry changed; nothing where the resource is gone."""
        path = f"{key.name}/status"
        try:
            self._object("PATCH", KIND, key.namespace, path, body={"status": {"told": when}}, content="application/merge-patch+json")
        except Refused as refusal:
            if refusal.status != 404:
                raise

    def logs(self, namespace: str, pod: str) -> str:
        return self._ask("GET", f"{_path('Pod', namespace)}/{pod}/log")

    def _object(
        self, method: str, kind: str, namespace: str, name: str, *, query: list[tuple[str, str]] | None = None, body: Object | None = None,
        content: str = "application/json",
    ) -> Object:  # fmt: skip
        path = _path(kind, namespace) + (f"/{name}" if name else "")
        found: Object = json.loads(self._ask(method, path, query, body, content))
        # Items of a list, and nothing else, come without their kind.
        return found if "items" in found or "kind" in found else {"kind": kind, **found}

    def _ask(self, method: str, path: str, query: Any = None, body: Object | None = None, content: str = "application/json") -> str:
        with self._lock:
            self.calls[method] += 1
        sent: Any = json.dumps(body).encode() if content.endswith("yaml") else body
        headers = {"Accept": "application/json", **({"Content-Type": content} if body is not None else {})}
        try:
            made = self._api.param_serialize(
                method, path, query_params=query or [], header_params=headers, body=sent, auth_settings=["BearerToken"]
            )
            response = self._api.call_api(*made, _request_timeout=TIMEOUT)
            data: bytes = response.read()
        except ApiException as refusal:
            raise _refused(refusal.status or 0, refusal.body) from None
        except Exception as failure:  # urllib3 has many
            raise Unreachable(f"the API server did not answer ({type(failure).__name__})") from failure
        if response.status >= 400:
            raise _refused(response.status, data)
        return data.decode()


def connect() -> Cluster:
    """The cluster that this process runs in, or the kubeconfig's current one."""
    try:
        config.load_incluster_config()
    except config.ConfigException:
        config.load_kube_config()
    configuration = client.Configuration.get_default_copy()
    configuration.connection_pool_maxsize = 32
    return Cluster(client.ApiClient(configuration), os.environ.get("POD_NAME") or os.uname().nodename)


def _path(kind: str, namespace: str) -> str:
    version, plural = KINDS[kind]
    root = "/api" if version == "v1" else "/apis"
    return f"{root}/{version}/namespaces/{quote(namespace)}/{plural}"


def _refused(status: int, body: Any) -> Exception:
    text = body.decode() if isinstance(body, bytes) else str(body or "")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        message = text[:300] or f"HTTP status {status}"
    if status == 429 or status >= 500 or status == 0:
        return Unreachable(f"the API server answered {status}: {message}")
    return Refused(status, message)
