"""docs/monitoring.md does as it says: served with traces, rated, and reported on, by the commands of the page."""

import json
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest

from pilothouse.lifecycle.promotion import EVALUATION
from pilothouse.models import packaging
from pilothouse.models.packaging import Target
from support.chart import ROOT
from support.reader import Reader, blocks, checkout
from support.tracking import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")]


def test_every_command_of_the_page_works(tracking: str, tmp_path: Path) -> None:
    """With a champion that was evaluated in the registry; what is reported is what was asked."""
    made = packaging.package_onnx(target=Target(tracking_uri=tracking, register="phi3", alias="champion"))
    client = mlflow.MlflowClient(tracking_uri=tracking)
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "answer_seconds_p50", 1e9)
    client.set_model_version_tag("phi3", made.version, EVALUATION, run.info.run_id)
    ports = {port: str(free_port()) for port in ("8080", "8081", "8082")}
    instead = {f":{port}": f":{free}" for port, free in ports.items()} | {"http://127.0.0.1:5000": tracking}
    variables = {f"PILOTHOUSE_{name}_PORT": ports[port] for name, port in (("REST", "8080"), ("GRPC", "8081"), ("METRICS", "8082"))}
    reader = Reader(checkout(tmp_path), instead, variables)
    told: list[str] = []
    with ExitStack() as stays:
        for block in blocks(ROOT / "docs/monitoring.md"):
            if block.fence == "bash server":
                stays.enter_context(reader.serving(block.text, reader.meant("http://127.0.0.1:8080/v2/health/ready")))
            elif "helm" not in block.text:
                told.append(reader.type(block.text))
    feedback, report = told
    assert sorted(json.loads(feedback)) == ["id", "name", "trace_id"]
    traces, metrics, limits = report.split("phi3 version 1")[1], report.split("phi3 version 1")[2], json.loads(report[report.index("{") :])
    assert ("1 traces of 24 hours" in traces, "one server's metrics" in metrics) == (True, True)
    assert (limits["served"]["requests"], limits["evaluation"]) == (1, run.info.run_id)
