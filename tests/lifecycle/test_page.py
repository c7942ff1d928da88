"""docs/lifecycle.md does as it says: every command of it is run, in its order, as a reader would."""

import os
import re
from contextlib import ExitStack
from pathlib import Path

import mlflow
import pytest

from pilothouse.models import pocket, pocket_chat
from pilothouse.smoke.client import Client
from support.chart import ROOT, Chart
from support.reader import Reader, blocks, checkout
from support.tracking import free_port

CACHE = str(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # where Helm may be; the stage has a cache of its own


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(900)
def test_every_command_of_the_page_works(tmp_path: Path) -> None:
    """From a Hugging Face folder to a served champion and back, by hand and as MLflow Projects, with nothing from outside this machine."""
    ports = {port: str(free_port()) for port in ("5000", "8080", "8081", "8082")}
    model = pocket_chat.make(tmp_path / "hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", CACHE)
        helm = Chart.found().helm
    few = "\n".join((ROOT / "runtime/pilothouse/lifecycle/data/pocket-answers-v1.jsonl").read_text().splitlines()[:2])
    (tmp_path / "few-v1.jsonl").write_text(few + "\n")
    instead = {f"{before}{port}": f"{before}{free}" for port, free in ports.items() for before in (":", "port ")}
    instead |= {
        "/models/Phi-3-mini-4k-instruct": str(model),
        "--slower 3": f"--slower 100 --data {tmp_path}/few-v1.jsonl",  # the machine may be busy
        "slower=3": f"slower=100 -P data={tmp_path}/few-v1.jsonl",
    }
    reader = Reader(checkout(tmp_path), instead, {})
    reader.shell["PATH"] = f"{Path(helm).parent}:{os.environ['PATH']}"
    told: list[str] = []
    with ExitStack() as servers:
        for block in blocks(ROOT / "docs/lifecycle.md"):
            if block.fence == "bash server":
                health = "http://127.0.0.1:5000/health" if "mlflow server" in block.text else "http://127.0.0.1:8080/v2/health/ready"
                servers.enter_context(reader.serving(block.text, reader.meant(health)))
            elif block.fence == "bash":  # sh: for a cluster, or in the foreground
                told.append(reader.type(block.text))
        assert 'pilothouse/model: "models:/phi3/1"' in "".join(told)
        assert 'pilothouse/model-digest: "sha256:' in "".join(told)
        client = mlflow.MlflowClient(tracking_uri=reader.shell["MLFLOW_TRACKING_URI"])
        experiment = client.get_experiment_by_name("pilothouse")
        runs = client.search_runs([experiment.experiment_id], order_by=["start_time"])
        kinds = [run.data.tags["pilothouse.kind"] for run in runs]
        assert kinds == ["prepare", "package", "package", "evaluate", "prepare", "package", "evaluate", "bench"]
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert [run.data.tags["mlflow.source.type"] for run in runs][4:7] == ["PROJECT"] * 3
        assert runs[0].data.tags["pilothouse_manifest"].startswith("sha256:")
        assert client.get_model_version_by_alias("phi3", "champion").version == "1"
        assert client.get_model_version_by_alias("phi3", "challenger").version == "3"
        assert client.get_model_version("phi3", "2").tags["pilothouse.champion.why"] == "longer answers"
        card = Client(f"http://127.0.0.1:{ports['8080']}").get("/v1/models").json["data"][0]["pilothouse"]
        assert (card["uri"], card["version"]) == ("models:/phi3@champion", "1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_serve_entry_point_serves(tmp_path: Path) -> None:
    """`mlflow run . -e serve` is a server until it is stopped."""
    rest, grpc, metrics = free_port(), free_port(), free_port()
    reader = Reader(checkout(tmp_path), shell={"MLFLOW_TRACKING_URI": "sqlite:///serve.db"})
    ports = f"-P rest_port={rest} -P grpc_port={grpc} -P metrics_port={metrics}"
    command = f".venv/bin/mlflow run . -e serve --env-manager local -P model={pocket.FOLDER} {ports}"
    with reader.serving(command, f"http://127.0.0.1:{rest}/v2/health/ready"):
        assert Client(f"http://127.0.0.1:{rest}").get("/v1/models").json["data"][0]["id"] == "onnx"


def test_the_pocket_model_speaks_of_commands_that_are_there() -> None:
    """What it tells of promoting and rolling back is true."""
    from pilothouse.cli import COMMANDS
    from pilothouse.models.pocket.answers import PAIRS

    named = {word for _, answer in PAIRS for word in re.findall(r"\bpilothouse ([a-z]+)", answer)}

    assert {"promote", "rollback", "package", "serve", "doctor", "smoke"} == named & {*COMMANDS}
