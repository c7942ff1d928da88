"""Reads a release with the user's own kubectl: their context, their rights, and no client library to install."""

import json
import shutil
import subprocess
from typing import Any

from pilothouse.diagnosis.release import Release, secrets_of
from pilothouse.errors import StartError

PATIENCE = 30.0
REVISIONS = "{{range .items}}{{.metadata.labels.version}} {{.metadata.labels.status}}\n{{end}}"
KEYS = "{{.metadata.name}}{{range $key, $value := .data}} {{$key}}{{end}}"


def release(
    name: str, namespace: str | None = None, context: str | None = None, *, weights: int | None = None, least: int | None = None
) -> Release:
    """The release and its cluster as they are now. Raises `StartError` where kubectl is missing, refused or can't reach the cluster."""
    at = [*(["--context", context] if context else []), *(["--namespace", namespace] if namespace else [])]
    _kubectl()
    try:
        told = _json(at, "version")
    except StartError:
        _demand_context(at)
        raise
    mine = f"app.kubernetes.io/instance={name}"
    deployments = _items(at, "deployments", mine)
    secrets = {}
    for secret in secrets_of(deployments):  # only what the release names, and of that only the keys
        listed = _text([*at, "get", "secret", secret, "--ignore-not-found", "--output", f"go-template={KEYS}"])
        if listed:
            secrets[secret] = frozenset(listed.split()[1:])
    return Release(
        name=name,
        namespace=namespace or _text([*at, "config", "view", "--minify", "--output", "jsonpath={..namespace}"]) or "default",
        version=told["serverVersion"]["gitVersion"],
        deployments=deployments,
        status=None if deployments else _status(at, name),
        pods=_items(at, "pods", mine),
        nodes=_items(at, "nodes"),
        secrets=secrets,
        claims=frozenset(one["metadata"]["name"] for one in _items(at, "persistentvolumeclaims")),
        weights=weights,
        least=least,
    )


def _demand_context(at: list[str]) -> None:
    """Without a context kubectl asks whatever listens on port 8080 here."""
    try:
        known = "--context" in at or _text(["config", "current-context"])
    except StartError:
        known = ""
    if not known:
        raise StartError("kubectl has no current context: set KUBECONFIG to the cluster's file, or name a context with --context")


def _status(at: list[str], name: str) -> str | None:
    """Helm's word for the release's last revision, from the labels of its own Secrets; what they hold is not read."""
    listed = _text([*at, "get", "secrets", "--selector", f"owner=helm,name={name}", "--output", f"go-template={REVISIONS}"])
    revisions = sorted((int(number), status) for number, status in (line.split() for line in listed.splitlines() if line.strip()))
    return revisions[-1][1] if revisions else None


def _items(at: list[str], kind: str, selector: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _json(at, "get", kind, *(["--selector", selector] if selector else []))["items"]
    return found


def _json(at: list[str], *command: str) -> Any:
    text = _text([*at, *command, "--output", "json"])
    try:
        return json.loads(text)
    except ValueError:
        raise StartError(f"kubectl {' '.join(command[:4])} answered no JSON: {text[:80]!r}") from None


def _kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        raise StartError("kubectl is not on the PATH; install it, or run doctor without --release")
    return found


def _text(arguments: list[str]) -> str:
    try:
        done = subprocess.run([_kubectl(), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise StartError(f"the cluster did not answer within {PATIENCE:g} s; check `kubectl cluster-info`") from None
    if done.returncode:
        last = next(iter(done.stderr.strip().splitlines()[-1:]), "no reason told")
        raise StartError(f"kubectl {' '.join(arguments[:6])} failed: {last}")
    return done.stdout
