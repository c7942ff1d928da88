"""Every piece of work is a run of MLflow's: parameters, metrics, artifacts, the input, the digests of what came out."""

import json
import os
import subprocess
from pathlib import Path

import mlflow
import pytest

from pilothouse import cli
from pilothouse.models import pocket
from pilothouse.models.packaging import Packaged
from support.tracking import Server

ROOT = Path(__file__).parents[2]


def test_packaging_is_a_run(tracked: Server, pair: tuple[Packaged, Packaged], tmp_path: Path) -> None:
    """Its parameters say what was packaged and how, its input is the folder, and the digests are those of the model's files."""
    client = mlflow.MlflowClient(tracking_uri=tracked.url)
    made = pair[0]
    run = client.get_run(made.run_id)
    (given,) = run.inputs.dataset_inputs

    assert run.info.status == "FINISHED"
    assert (run.data.tags["pilothouse.kind"], run.data.tags["pilothouse_manifest"]) == ("package", made.digest)
    assert run.data.params["flavor"] == "python_function"
    assert run.data.params["source"] == str(pocket.FOLDER)
    assert run.data.params["architecture"] == "phi3"
    assert run.data.params["model_config.max_length"] == "300"
    assert run.data.metrics["files"] == len(made.files)
    assert run.data.metrics["bytes"] > 1e6
    assert run.data.metrics["seconds"] > 0
    assert (given.dataset.name, given.dataset.source_type, len(given.dataset.digest)) == ("onnx", "local", 32)
    digests = mlflow.artifacts.download_artifacts(f"runs:/{made.run_id}/digests.json", dst_path=str(tmp_path), tracking_uri=tracked.url)
    assert json.loads(Path(digests).read_text()) == made.files
    assert made.page == f"{tracked.url}/#/experiments/{run.info.experiment_id}/runs/{made.run_id}"


def test_runs_can_be_compared(tracked: Server, pair: tuple[Packaged, Packaged]) -> None:
    """MLflow's own search finds both and shows where they differ; the same folder has the same digest as input."""
    found = mlflow.MlflowClient(tracking_uri=tracked.url).search_runs(
        [mlflow.MlflowClient(tracking_uri=tracked.url).get_experiment_by_name("pilothouse").experiment_id],
        filter_string="tags.`pilothouse.kind` = 'package'",
        order_by=["start_time"],
    )

    assert [run.data.params["model_config.max_length"] for run in found[:2]] == ["300", "301"]
    assert len({run.inputs.dataset_inputs[0].dataset.digest for run in found[:2]}) == 1
    assert found[0].data.metrics.keys() == found[1].data.metrics.keys()


def test_the_command_prints_the_run_s_address(tracked: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One click from the terminal to the run; standard output holds nothing of MLflow's own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracked.url)

    assert cli.main(["package", "onnx", "--register", "by-hand", "--alias", "challenger"]) == 0

    logged, registered, run, serve = capsys.readouterr().out.splitlines()
    assert registered == "registered by-hand version 1, alias challenger"
    assert run.startswith(f"run: {tracked.url}/#/experiments/")
    assert run.rsplit("/", 1)[1] in logged
    assert serve == "serve it: pilothouse serve models:/by-hand@challenger"


def test_a_run_that_fails_is_marked_so(tracked: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run stays, as failed, with what it was asked to do."""
    folder = tmp_path / "broken"
    folder.mkdir()
    config = {"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    code = cli.main(["prepare", str(folder), "--out", str(tmp_path / "out"), "--tracking-uri", tracked.url, "--experiment", "broken"])

    client = mlflow.MlflowClient(tracking_uri=tracked.url)
    (run,) = client.search_runs([client.get_experiment_by_name("broken").experiment_id])
    assert code == 2
    assert "model builder could not export" in capsys.readouterr().err.splitlines()[-1]
    assert (run.info.status, run.data.params["source"]) == ("FAILED", str(folder))
    assert not (tmp_path / "out").exists()


def bench(folder: Path, figures: dict[str, object], uri: str) -> str:
    """The address of the run that `scripts/bench-track` makes of a benchmark's file."""
    file = folder / "figures.json"
    file.write_text(json.dumps(figures))
    done = subprocess.run(
        [str(ROOT / "scripts/bench-track"), "tiny", str(file), "--experiment", "bench"],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": str(ROOT / "runtime")},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("run: ")]
    return line.removeprefix("run: ")


def test_a_benchmark_is_a_run(tracked: Server, tmp_path: Path) -> None:
    """Its figures are metrics by their place in the file, the machine is parameters, the file the artifact, the model that was measured the input."""
    rows = {"rows": {"paged, fp16": {"tokens_per_second": [10.5, 11.0]}}, "many": [1] * 100}
    pages = [
        bench(tmp_path, {"machine": {"cores": 2, "cpu": "Xeon", "busy": False}, "ratio": ratio, **rows}, tracked.url)
        for ratio in (1.02, 0.98)
    ]
    client = mlflow.MlflowClient(tracking_uri=tracked.url)
    experiment = client.get_experiment_by_name("bench")
    runs = client.search_runs([experiment.experiment_id], filter_string="tags.`pilothouse.kind` = 'bench'", order_by=["metrics.ratio DESC"])

    assert pages == [f"{tracked.url}/#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}" for run in runs]
    assert [run.data.metrics["ratio"] for run in runs] == [1.02, 0.98]
    run = runs[0]
    assert run.data.metrics == {
        "machine.cores": 2.0,
        "ratio": 1.02,
        "rows.paged_ fp16.tokens_per_second.0": 10.5,
        "rows.paged_ fp16.tokens_per_second.1": 11.0,
    }
    assert run.data.params == {"machine.cpu": "Xeon", "machine.busy": "False"}
    assert (run.info.status, run.info.run_name, run.data.tags["pilothouse.kind"]) == ("FINISHED", "tiny", "bench")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["figures.json"]
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.source_type) == ("onnx", "local")
