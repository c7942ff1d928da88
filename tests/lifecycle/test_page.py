"""docs/lifecycle.md does as it says: every command of it is run, in its order, as a reader would."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import mlflow
import pytest

from pilothouse.models import pocket_chat
from pilothouse.smoke.client import Client
from support.chart import Chart
from support.tracking import free_port

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/lifecycle.md"
TAKEN = ("runtime", "charts", "MLproject", "pyproject.toml", "benchmarks", "scripts")
PATIENCE = 240
CACHE = str(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # where Helm may be; the stage has a cache of its own


def blocks() -> list[tuple[str, str]]:
    """The page's commands: `server` for what stays in the foreground, and the text."""
    return re.findall(r"^```bash( server)?\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@contextmanager
def running(command: str, shell: dict[str, str], folder: Path, until: str) -> Iterator[None]:
    """A command that stays, up once `until` answers 200; its process group is ended afterwards."""
    log = folder / "server.log"
    with log.open("a") as out:
        process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=shell, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    try:
        begun = subprocess.run(
            ["curl", "--silent", "--fail", "--retry", "240", "--retry-all-errors", "--retry-delay", "1", "--output", "/dev/null", until],
            check=False,
            timeout=PATIENCE,
        )
        assert (begun.returncode, process.poll()) == (0, None), log.read_text()[-4000:]
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to the commands, so that nothing is written into ours."""
    folder = tmp_path / "pilothouse"
    folder.mkdir()
    for name in TAKEN:
        (folder / name).symlink_to(ROOT / name)
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("mlflow", "pilothouse", "python"):  # a link to Python would not find its environment
        (tools / name).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).with_name(name)}" "$@"\n')
        (tools / name).chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.transformers
@pytest.mark.timeout(900)
def test_every_command_of_the_page_works(checkout: Path, tmp_path: Path) -> None:
    """From a Hugging Face folder to a served champion and back, by hand and as MLflow Projects, with nothing from outside this machine."""
    ports = {port: str(free_port()) for port in ("5000", "8080", "8081", "8082")}
    model = pocket_chat.make(tmp_path / "hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", CACHE)
        helm = Chart.found().helm
    shell = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONPATH": str(ROOT / "runtime"),
        "PYTHONWARNINGS": "ignore",
        "PATH": f"{Path(helm).parent}:{os.environ['PATH']}",
    }
    few = "\n".join((checkout / "runtime/pilothouse/lifecycle/data/pocket-answers-v1.jsonl").read_text().splitlines()[:2])
    (tmp_path / "few-v1.jsonl").write_text(few + "\n")
    told: list[str] = []
    with ExitStack() as servers:
        for server, text in blocks():
            for port, free in ports.items():
                text = text.replace(f":{port}", f":{free}").replace(f"port {port}", f"port {free}")
            text = text.replace("/models/Phi-3-mini-4k-instruct", str(model))
            text = text.replace("--slower 3", f"--slower 100 --data {tmp_path}/few-v1.jsonl")  # the machine may be busy
            text = text.replace("slower=3", f"slower=100 -P data={tmp_path}/few-v1.jsonl")
            if server:
                health = (
                    f"http://127.0.0.1:{ports['5000']}/health"
                    if "mlflow server" in text
                    else f"http://127.0.0.1:{ports['8080']}/v2/health/ready"
                )
                servers.enter_context(running(text.strip(), shell, checkout, health))
                continue
            for line in text.splitlines():
                if line.startswith("export "):
                    name, _, value = line.removeprefix("export ").partition("=")
                    shell[name] = value.replace("$PWD", str(checkout)).replace("$PATH", shell["PATH"])
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                env=shell,
                cwd=checkout,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
            told.append(done.stdout)
        assert 'pilothouse/model: "models:/phi3/1"' in "".join(told)
        assert 'pilothouse/model-digest: "sha256:' in "".join(told)
        client = mlflow.MlflowClient(tracking_uri=shell["MLFLOW_TRACKING_URI"])
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
def test_the_serve_entry_point_serves(checkout: Path) -> None:
    """`mlflow run . -e serve` is a server until it is stopped."""
    rest, grpc, metrics = free_port(), free_port(), free_port()
    from pilothouse.models import pocket

    shell = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///serve.db", "PYTHONPATH": str(ROOT / "runtime"), "PYTHONWARNINGS": "ignore"}
    ports = f"-P rest_port={rest} -P grpc_port={grpc} -P metrics_port={metrics}"
    command = f".venv/bin/mlflow run . -e serve --env-manager local -P model={pocket.FOLDER} {ports}"
    with running(command, shell, checkout, f"http://127.0.0.1:{rest}/v2/health/ready"):
        assert Client(f"http://127.0.0.1:{rest}").get("/v1/models").json["data"][0]["id"] == "onnx"


def test_the_pocket_model_speaks_of_commands_that_are_there() -> None:
    """What it tells of promoting and rolling back is true."""
    from pilothouse.cli import COMMANDS
    from pilothouse.models.pocket.answers import PAIRS

    named = {word for _, answer in PAIRS for word in re.findall(r"\bpilothouse ([a-z]+)", answer)}

    assert {"promote", "rollback", "package", "serve", "doctor", "smoke"} == named & {*COMMANDS}
