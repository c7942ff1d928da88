"""What every render promises, whatever was chosen: kube-linter's default rules, Pod Security "restricted", and our own words."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.chart import COMBINATIONS, Chart, Manifest

POD_OF = {"Deployment": lambda m: m["spec"]["template"], "Pod": lambda m: m}
EVERY = pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS)


def pods(manifests: list[Manifest]) -> Iterator[tuple[Manifest, dict[str, Any]]]:
    """Each manifest that runs something, with its pod."""
    for manifest in manifests:
        if manifest["kind"] in POD_OF:
            yield manifest, POD_OF[manifest["kind"]](manifest)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return next((float(text.removesuffix(unit)) * scale for unit, scale in units.items() if text.endswith(unit)), None) or float(text)


def test_there_are_enough_combinations() -> None:
    """Every profile is rendered with every toggle."""
    assert len(COMBINATIONS) == 54


@EVERY
def test_pods_are_restricted(chart: Chart, values: dict[str, Any]) -> None:
    """No root, no capability, no privilege, no writable root file system, no token, no host namespace, no host path."""
    for _, pod in pods(chart.render(values)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["serviceAccountName"] != "default"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["securityContext"]["runAsUser"] >= 10000
        for container in containers(pod):
            context = container["securityContext"]
            assert context == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "runAsUser": spec["securityContext"]["runAsUser"],
                "capabilities": {"drop": ["ALL"]},
            }


@EVERY
def test_only_emptydirs_are_written_to(chart: Chart, values: dict[str, Any]) -> None:
    """Every mount but /tmp and the init container's copy is read-only, and every emptyDir has a size."""
    for _, pod in pods(chart.render(values)):
        scratch = {v["name"] for v in pod["spec"]["volumes"] if "emptyDir" in v}
        assert all(v["emptyDir"]["sizeLimit"] for v in pod["spec"]["volumes"] if "emptyDir" in v)
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                assert mount.get("readOnly") or mount["name"] in scratch
        server = pod["spec"]["containers"][0]
        assert [m["name"] for m in server["volumeMounts"] if not m.get("readOnly")] == ["tmp"]


@EVERY
def test_containers_ask_for_what_they_need_and_no_more(chart: Chart, values: dict[str, Any]) -> None:
    """Requests and limits for CPU and memory, requests under limits; a fixed image; no secret in the environment of the server."""
    for manifest, pod in pods(chart.render(values)):
        for container in containers(pod):
            for resource in ("cpu", "memory"):
                asked, limit = (container["resources"][side][resource] for side in ("requests", "limits"))
                assert 0 < quantity(asked) <= quantity(limit)
            repository, separator, version = container["image"].rpartition("@" if "@" in container["image"] else ":")
            assert (repository, bool(separator)) == ("pilothouse", True)
            assert version not in ("", "latest")
            assert not any("secret" in str(variable).lower() for variable in container.get("env", []))
            if manifest["kind"] == "Deployment" and container["name"] == "pilothouse":
                assert container["envFrom"] == [{"configMapRef": {"name": manifest["metadata"]["name"]}}]


@EVERY
def test_deployments_are_probed_and_spread(chart: Chart, values: dict[str, Any]) -> None:
    """Three probes with time for a busy server, anti-affinity, spread over nodes and zones, a rollout that can move."""
    (deployment,) = [m for m in chart.render(values) if m["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    server = spec["containers"][0]
    probed = {p: server[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert probed == {
        "startupProbe": "/v2/health/ready",
        "readinessProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
    }
    assert all(server[p]["timeoutSeconds"] >= 5 for p in ("startupProbe", "readinessProbe", "livenessProbe"))
    assert spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [c["topologyKey"] for c in spec["topologySpreadConstraints"]] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxSurge"] + rolling["maxUnavailable"] > 0
    slack = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert deployment["spec"]["progressDeadlineSeconds"] > slack


@EVERY
def test_selectors_find_the_server_and_only_the_server(chart: Chart, values: dict[str, Any]) -> None:
    """Service, policy, disruption budget and Deployment select the same pods; the test pod is none of them; no selector dangles."""
    manifests = chart.render(values)
    (deployment,) = [m for m in manifests if m["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [m["spec"]["selector"] for m in manifests if m["kind"] == "Service"]
    selectors += [m["spec"]["selector"]["matchLabels"] for m in manifests if m["kind"] in ("PodDisruptionBudget", "ServiceMonitor")]
    selectors += [
        m["spec"]["podSelector"]["matchLabels"]
        for m in manifests
        if m["kind"] == "NetworkPolicy" and not m["metadata"]["name"].endswith("-test")
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    for manifest, pod in pods(manifests):
        if manifest["kind"] == "Pod":
            assert not any(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors)


@EVERY
def test_resources_name_their_release(chart: Chart, values: dict[str, Any]) -> None:
    """Everything lies in the release's namespace, carries the common labels, and no two resources share kind and name."""
    manifests = chart.render(values)
    for manifest in manifests:
        assert manifest["metadata"]["namespace"] == "models"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == "phi3"
        assert manifest["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests]
    assert len(names) == len(set(names))


def test_disruption_budget_is_for_several_pods_only(chart: Chart) -> None:
    """A budget over one pod would hold up every node drain for ever."""

    def has(values: dict[str, Any]) -> bool:
        return any(m["kind"] == "PodDisruptionBudget" for m in chart.render(values))

    assert not has({})
    assert has({"replicas": 2})
    assert has({"autoscaling": {"kind": "hpa", "minReplicas": 2}})
    assert not has({"replicas": 2, "autoscaling": {"kind": "hpa"}})


def test_autoscaler_owns_the_number_of_pods(chart: Chart) -> None:
    """A Deployment that states replicas would undo the autoscaler at every upgrade."""
    assert "replicas" not in chart.one("Deployment", {"autoscaling": {"kind": "hpa"}})["spec"]
    assert chart.one("Deployment", {"replicas": 0})["spec"]["replicas"] == 0


def test_profile_decides_where_pods_run_and_on_what(chart: Chart) -> None:
    """Hardware is data: image, device, resources and placement all follow from one word."""
    pod = chart.pod({"profile": "gpu"})

    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["containers"][0]["image"] == "pilothouse:0.1.0-onnx-cuda"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert chart.one("ConfigMap", {"profile": "gpu"})["data"]["PILOTHOUSE_DEVICE"] == "cuda"
    assert chart.one("Deployment", {"profile": "gpu"})["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert chart.one("Deployment")["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_settings_arrive_as_they_were_written(chart: Chart) -> None:
    """Numbers stay plain (never 1.048576e+06), false stays false, and new settings make new pods."""
    values = {"settings": {"max_body_bytes": 1048576, "queue_seconds": 7.5, "page": False, "log_level": "warning"}}

    data = chart.one("ConfigMap", values)["data"]

    assert {k: v for k, v in data.items() if k.removeprefix("PILOTHOUSE_").lower() in values["settings"]} == {
        "PILOTHOUSE_MAX_BODY_BYTES": "1048576",
        "PILOTHOUSE_QUEUE_SECONDS": "7.5",
        "PILOTHOUSE_PAGE": "false",
        "PILOTHOUSE_LOG_LEVEL": "warning",
    }
    checksum = [chart.one("Deployment", v)["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for v in ({}, values)]
    assert checksum[0] != checksum[1]


def test_the_chat_page_is_served_only_when_it_is_asked_for(chart: Chart) -> None:
    """A release is an API; the page is a setting away."""
    assert chart.one("ConfigMap")["data"]["PILOTHOUSE_PAGE"] == "false"
    assert chart.one("ConfigMap", {"settings": {"page": True}})["data"]["PILOTHOUSE_PAGE"] == "true"


def test_keys_are_a_file_that_follows_its_secret(chart: Chart) -> None:
    """A subPath mount would never see a changed Secret; keys never stand in the environment."""
    values = {"apiKeys": {"existingSecret": "keys", "key": "all"}}
    pod = chart.pod(values)

    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "api-keys"]
    (volume,) = [v for v in pod["volumes"] if v["name"] == "api-keys"]

    assert mount == {"name": "api-keys", "mountPath": "/etc/pilothouse/keys", "readOnly": True}
    assert volume["secret"] == {"secretName": "keys", "items": [{"key": "all", "path": "api-keys"}], "defaultMode": 0o440}
    assert chart.one("ConfigMap", values)["data"]["PILOTHOUSE_API_KEYS_FILE"] == "/etc/pilothouse/keys/api-keys"


TLS = {"tls": {"existingSecret": "pair"}}
MUTUAL = {"tls": {"existingSecret": "pair", "clientCaKey": "clients.crt", "testSecret": "client"}}


def test_tls_files_follow_their_secret_and_probes_speak_it(chart: Chart) -> None:
    """A whole volume, so that a rotated certificate arrives; kubelets ask over TLS, at the port that wants no certificate of them."""
    for values, port in ((TLS, "rest"), (MUTUAL, "metrics")):
        (container,) = (pod := chart.pod(values))["containers"]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "tls"]
        settings = chart.one("ConfigMap", values)["data"]
        files = {item["key"]: f"/etc/pilothouse/tls/{item['path']}" for item in volume["secret"]["items"]}

        assert {"name": "tls", "mountPath": "/etc/pilothouse/tls", "readOnly": True} in container["volumeMounts"]
        assert (settings["PILOTHOUSE_TLS_CERTIFICATE"], settings["PILOTHOUSE_TLS_KEY"]) == (files["tls.crt"], files["tls.key"])
        assert settings.get("PILOTHOUSE_TLS_CLIENT_CA") == files.get("clients.crt")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert (container[probe]["httpGet"]["scheme"], container[probe]["httpGet"]["port"]) == ("HTTPS", port)
    assert "scheme" not in chart.pod()["containers"][0]["livenessProbe"]["httpGet"]


def test_the_test_pod_speaks_tls_with_what_it_is_given(chart: Chart) -> None:
    """The server's CA, and a client's certificate where one is wanted; where that is missing there is no test pod that could only fail."""

    def arguments(values: dict[str, Any]) -> list[str]:
        return next((m["spec"]["containers"][0]["args"] for m in chart.render(values) if m["kind"] == "Pod"), [])

    assert arguments(TLS)[:2] == ["smoke", "https://phi3-pilothouse.models.svc:8080"]
    assert "--ca=/etc/pilothouse/ca/ca.crt" in arguments(TLS)
    assert {"--cert=/etc/pilothouse/client/tls.crt", "--cert-key=/etc/pilothouse/client/tls.key"} <= set(arguments(MUTUAL))
    assert arguments({"tls": {**MUTUAL["tls"], "testSecret": ""}}) == []


def test_prometheus_is_told_of_tls(chart: Chart) -> None:
    """Scheme, name and CA; no certificate, for the metrics port wants none."""
    values = {**MUTUAL, "metrics": {"serviceMonitor": {"enabled": True}}}
    (endpoint,) = chart.one("ServiceMonitor", values)["spec"]["endpoints"]

    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {"serverName": "phi3-pilothouse.models.svc", "ca": {"secret": {"name": "pair", "key": "ca.crt"}}}


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        ({"source": "image"}, None),
        ({"source": "pvc", "pvc": {"claimName": "m"}}, "/models/model"),
        ({"source": "pvc", "pvc": {"claimName": "m", "path": "a/b"}}, "/models/model/a/b"),
        ({"source": "imageVolume", "imageVolume": {"reference": "r/m:1", "path": "phi3"}}, "/models/model/phi3"),
        ({"source": "mlflow", "mlflow": {"uri": "models:/m/1", "trackingUri": "http://t"}}, "/models/model"),
    ],
)
def test_server_reads_the_model_where_it_is_mounted(chart: Chart, model: dict[str, Any], folder: str | None) -> None:
    """The setting and the mount are computed together; a model in the image is found by the image's own word."""
    values = {"model": model}

    assert chart.one("ConfigMap", values)["data"].get("PILOTHOUSE_MODEL") == folder
    mounts = {m["mountPath"] for m in chart.pod(values)["containers"][0]["volumeMounts"]}
    assert folder is None or any(folder.startswith(mount) for mount in mounts - {"/tmp"})


@pytest.mark.parametrize("drain", [1, 30, 120, 3600])
def test_grace_covers_pause_lame_duck_and_drain(chart: Chart, drain: int) -> None:
    """Kubernetes never kills a pod that still drains: everything is computed from one value."""
    values = {"drainSeconds": drain}
    pod, data = chart.pod(values), chart.one("ConfigMap", values)["data"]

    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    lame_duck = float(data["PILOTHOUSE_LAME_DUCK_SECONDS"])

    assert data["PILOTHOUSE_DRAIN_SECONDS"] == str(drain)
    assert pod["terminationGracePeriodSeconds"] == pause + lame_duck + drain + 10
    # The pause outlasts a readiness period, so that what reads readiness has let go too.
    assert pause > pod["containers"][0]["readinessProbe"]["periodSeconds"]


def test_a_resolved_model_is_named_by_the_pod_and_demanded_by_its_init_container(chart: Chart) -> None:
    """What was asked for are annotations; what an alias became is the termination message, for a pod can't annotate itself."""
    digest = "sha256:" + "0f" * 32
    registry = {"uri": "models:/phi3/3", "trackingUri": "http://mlflow:5000"}

    def rendered(**more: str) -> tuple[dict[str, str], list[str]]:
        template = chart.one("Deployment", {"model": {"source": "mlflow", "mlflow": registry | more}})["spec"]["template"]
        return template["metadata"]["annotations"], template["spec"]["initContainers"][0]["args"]

    annotations, args = rendered()
    assert annotations["pilothouse/model"] == "models:/phi3/3"
    assert "pilothouse/model-digest" not in annotations
    assert args == ["fetch", "models:/phi3/3", "/models/model", "--report=/dev/termination-log"]

    annotations, args = rendered(digest=digest)
    assert annotations["pilothouse/model-digest"] == digest
    assert args[4:] == [f"--digest={digest}"]
