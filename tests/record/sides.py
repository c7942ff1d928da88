"""The two sides of the record: the hosts that its cases speak to, each started when it is first asked for and ended with the session.

Both sides answer to the same names with the same models, so that one observer drives either. Stock MLServer runs unmodified in its own
environment; where a case needs its workers, which do not start there (D1), uvloop 0.21 is laid over it.
"""

import asyncio
import json
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from record.hosts import Host, Ports, started
from support.environments import environment, overlay
from support.pocket_hf import pocket_hf

HERE = Path(__file__).parent
RUNTIMES = HERE / "runtimes"
SCRIPTED = HERE.parent / "support" / "serve_scripted.py"
MODEL = "scripted"
"""The model with the steady words, on both sides."""
TOY = {"implementation": "toy.Toy"}
MLFLOW = "mlserver_mlflow.MLflowRuntime"
STEP, SLOW_STEP = 0.02, 0.1  # seconds a word

T = TypeVar("T")


class Side:
    """What both sides have: hosts and results by name, made once; and new folders."""

    stock: bool

    def __init__(self, home: Path, models: Path) -> None:
        self.home = home
        self.models = models
        self._stack = ExitStack()
        self._kept: dict[str, Any] = {}
        self._made = 0

    async def once(self, name: str, make: Callable[[], Awaitable[T]]) -> T:
        """What `make` makes, kept under a name."""
        if name not in self._kept:
            self._kept[name] = await make()
        kept: T = self._kept[name]
        return kept

    def folder(self, name: str) -> Path:
        """The path of a new folder."""
        self._made += 1
        return self.home / f"{self._made}-{name}"

    def close(self) -> None:
        self._stack.close()

    async def plain(self) -> Host:
        """Words, one in 20 ms; shared by all cases that leave it as they found it, but for an engine that is still being made anew."""
        host = await self.once("plain", self._plain)
        await host.until(host.ready)
        return host

    async def _plain(self) -> Host:
        raise NotImplementedError

    async def steady(self) -> Host:
        """A new host whose words come every 100 ms, for a case that ends it."""
        raise NotImplementedError


class Stock(Side):
    """`mlserver start FOLDER`, as its project publishes it."""

    stock = True

    async def start(
        self,
        name: str,
        models: dict[str, dict[str, Any]],
        *,
        wait: bool = True,
        step: float = STEP,
        old_loop: bool = False,
        ports: Ports | None = None,
        **settings: Any,
    ) -> Host:
        """Start it on `models` (name -> model-settings) with `settings` in settings.json; wait until all are ready."""
        at = ports or Ports.free()
        folder = self.folder(name)
        files = folder.with_suffix(".models")
        files.mkdir(parents=True)
        served = {"host": "127.0.0.1", "http_port": at.rest, "grpc_port": at.grpc, "metrics_port": at.metrics}
        (files / "settings.json").write_text(json.dumps(served | settings))
        for model, about in models.items():
            (files / model).mkdir()
            (files / model / "model-settings.json").write_text(json.dumps({"name": model, **about}))
        python = await asyncio.to_thread(environment, HERE / "requirements" / "stock.txt")
        paths = [str(RUNTIMES)]
        if old_loop:
            paths.append(str(await asyncio.to_thread(overlay, HERE / "requirements" / "uvloop.txt")))
        given = {"PYTHONPATH": ":".join(paths), "TOY_STEP_SECONDS": str(step)}
        host = self._stack.enter_context(started([str(python.with_name("mlserver")), "start", str(files)], folder, at, given))

        async def ready() -> bool:
            return all([await host.status(f"/v2/models/{model}/ready") == "200" for model in models])

        if wait:
            await host.until(ready)
        return host

    async def _plain(self) -> Host:
        batched = {**TOY, "max_batch_size": 2, "max_batch_time": 5.0}
        return await self.start("plain", {MODEL: TOY, "spare": TOY, "batched": batched}, parallel_workers=0)

    async def steady(self) -> Host:
        return await self.start("steady", {MODEL: TOY}, step=SLOW_STEP, parallel_workers=0)

    async def workers(self) -> Host:
        """A new host with one worker process, MLServer's default, on an event loop with which that starts."""
        return await self.start("workers", {MODEL: TOY}, old_loop=True, parallel_workers=1)

    async def second(self) -> Host:
        """Debug and gzip off, the response cache on."""
        cached = {**TOY, "cache_enabled": True}
        settings = {"parallel_workers": 0, "debug": False, "gzip_enabled": False, "cache_enabled": True}
        return await self.once("second", lambda: self.start("second", {MODEL: cached, "spare": cached}, **settings))


class Ours(Side):
    """`pilothouse serve`: on the scripted engine where a case needs steady words, else on the models themselves."""

    stock = False

    async def start(
        self,
        name: str,
        *arguments: str,
        step: float | None = None,
        wait: bool = True,
        ports: Ports | None = None,
        environment: dict[str, str] | None = None,
        **settings: Any,
    ) -> Host:
        """Serve `arguments` with `settings`, or, with `step`, the scripted engine at that pace; wait until it is ready."""
        at = ports or Ports.free()
        folder = self.folder(name)
        given = {"rest_port": at.rest, "grpc_port": at.grpc, "metrics_port": at.metrics, "lame_duck_seconds": 0.2, **settings}
        named = {f"PILOTHOUSE_{key.upper()}": str(value) for key, value in given.items()} | (environment or {})
        command = [sys.executable, "-m", "pilothouse.cli", "serve", *arguments]
        if step is not None:
            named["SCRIPTED_STEP_SECONDS"] = str(step)
            command = [sys.executable, str(SCRIPTED), str(folder.with_suffix(".ready"))]
        host = self._stack.enter_context(started(command, folder, at, named))

        if wait:
            await host.until(host.ready)
        return host

    async def _plain(self) -> Host:
        return await self.start("plain", step=STEP)

    async def steady(self) -> Host:
        return await self.start("steady", step=SLOW_STEP, lame_duck_seconds=2, drain_seconds=60, upload_seconds=10)

    async def narrow(self) -> Host:
        """Room for one request, and for one that waits."""
        return await self.once("narrow", lambda: self.start("narrow", step=SLOW_STEP, rows=1, queue=1))

    async def pocket(self) -> Host:
        """The embedded model, every setting at its default but the ports."""
        return await self.once("pocket", lambda: self.start("pocket"))


def gate_model(folder: Path) -> tuple[Path, Path]:
    """An MLflow model of runtimes/gate.py, and the folder whose files open it."""
    doors = folder.with_suffix(".doors")
    doors.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.pyfunc.save_model(
            str(folder), python_model=str(RUNTIMES / "gate.py"), model_config={"folder": str(doors)}, pip_requirements=["mlflow"]
        )
    return folder, doors


def packaged(kind: str, home: Path) -> Path:
    """The pocket model as MLflow logs it, made once: "chat" by its transformers flavour (task llm/v1/chat), "onnx" as a pyfunc."""
    link = home / kind
    if not link.exists():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers' and torch's own
            from pilothouse.models.packaging import Target, package_chat, package_onnx

            target = Target(tracking_uri=f"sqlite:///{home}/mlflow.db")
            made = package_chat(pocket_hf(), target=target) if kind == "chat" else package_onnx(target=target)
        assert made.folder is not None
        link.symlink_to(made.folder)
    return link.resolve()
