"""The Azure ML definitions are what its own client library takes, and run our image as the chart does. Nothing of Azure is asked."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from pilothouse.settings import Settings
from support.chart import ROOT
from support.environments import environment

HERE = Path(__file__).parent
AZUREML = ROOT / "manifests" / "azureml"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def loaded(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What azure-ai-ml's own loaders, which check against its schemas, make of the three files in `folder`."""
    python = environment(HERE / "requirements" / "azure.txt")
    return subprocess.run([python, HERE / "with_azure.py", folder], capture_output=True, text=True, timeout=240, check=False)


def test_azure_s_own_library_takes_the_definitions() -> None:
    """Endpoint, model and deployment, with the routes it will probe."""
    done = loaded(AZUREML)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kinds"] == ["ManagedOnlineEndpoint", "Model", "ManagedOnlineDeployment"]
    assert told["routes"] == {
        "liveness_route": {"port": 8080, "path": "/v2/health/live"},
        "readiness_route": {"port": 8080, "path": "/v2/health/ready"},
        "scoring_route": {"port": 8080, "path": "/invocations"},
    }


def test_an_unknown_field_would_be_refused(tmp_path: Path) -> None:
    """The check above does check."""
    for path in AZUREML.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text().replace("instance_count:", "instance_cuont:"))
    (tmp_path / "model").mkdir()
    done = loaded(tmp_path)
    assert done.returncode != 0
    assert "instance_cuont" in done.stderr + done.stdout


def test_the_three_files_speak_of_one_model_one_endpoint_and_our_image() -> None:
    """Names agree, settings exist, the image is the chart's, and the server gives up before Azure does."""
    endpoint, model, deployment = (yaml.safe_load((AZUREML / f"{name}.yaml").read_text()) for name in ("endpoint", "model", "deployment"))
    assert deployment["endpoint_name"] == endpoint["name"]
    assert deployment["model"] == f"azureml:{model['name']}:{model['version']}"
    variables = deployment["environment_variables"]
    assert variables["PILOTHOUSE_MODEL"] == f"{deployment['model_mount_path']}/{model['name']}/{model['version']}"
    assert {name.removeprefix("PILOTHOUSE_").lower() for name in variables} <= set(Settings.model_fields)
    version = yaml.safe_load((ROOT / "charts/pilothouse/Chart.yaml").read_text())["appVersion"]
    assert deployment["environment"]["image"].rpartition("/")[2] == f"pilothouse:{version}-onnx"
    assert float(variables["PILOTHOUSE_REQUEST_SECONDS"]) * 1000 < deployment["request_settings"]["request_timeout_ms"] <= 180_000
