"""`serve`: the whole life of the process, from its first signal handler to its exit code."""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pilothouse.errors import StartError
from pilothouse.server import logs, ports
from pilothouse.settings import Settings

if TYPE_CHECKING:
    from mlserver import ModelSettings

    from pilothouse.metrics import Metrics
    from pilothouse.models.loading import Loaded
    from pilothouse.server.app import Initialiser, PilothouseServer

log = logging.getLogger("pilothouse.server")

OK, BROKEN, MENDABLE = 0, 1, 2
"""Exit codes: a clean stop, whoever asked for it; the server broke; something that the user can mend."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)

Models = Callable[[], Awaitable["Sequence[ModelSettings]"]]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server answers, as clients write it; `model` is the name of its first model, "" before one is loaded."""

    rest: str
    grpc: str
    metrics: str
    model: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


Told = Callable[[Addresses], None]


def serve(settings: Settings, model: "Future[Loaded]", *, metrics: "Metrics | None" = None, on_ready: Told | None = None) -> int:
    """Serve a model that is loading (`models.loading.begin`) until SIGTERM or SIGINT; the exit code.

    `metrics` are those that the loading engine was given, if any. `on_ready` is told the real addresses once the model has answered. The
    process should end with this: signals stay ignored.
    """

    async def models() -> "Sequence[ModelSettings]":
        from mlserver import ModelSettings
        from mlserver.settings import ModelParameters

        loaded = await asyncio.wrap_future(model)
        parameters = ModelParameters(_env_file=None, version=loaded.version)
        return [ModelSettings(_env_file=None, name=loaded.name, implementation="pilothouse.runtime.ChatRuntime", parameters=parameters)]

    def make(of: "ModelSettings", observer: "Metrics") -> Any:
        from pilothouse.runtime import ChatRuntime

        return ChatRuntime(of, model=model, observer=observer)

    return host(settings, models, make, metrics=metrics, on_ready=on_ready)


def host(
    settings: Settings,
    models: Models,
    make: "Initialiser | None" = None,
    *,
    metrics: "Metrics | None" = None,
    on_listening: Told | None = None,
    on_ready: Told | None = None,
) -> int:
    """Serve whatever MLServer models `models()` names; `make` makes a model of its settings. The exit code."""
    began = time.monotonic()
    before = set(threading.enumerate())
    asked = _Asked()
    logs.configure(settings)
    loop = _new_loop()
    try:
        code = loop.run_until_complete(_live(settings, models, make, metrics, asked, on_listening, on_ready, began))
    except Exception as error:
        code = _told(error)
    finally:
        asked.ignore(loop)
        _close(loop)
    _end_threads(before, code, clean=asked.clean)
    return code


async def _live(
    settings: Settings,
    models: Models,
    make: "Initialiser | None",
    metrics: "Metrics | None",
    asked: "_Asked",
    on_listening: Told | None,
    on_ready: Told | None,
    began: float,
) -> int:
    asked.listen(asyncio.get_running_loop())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLServer uses names that newer Starlettes deprecate
        from pilothouse.server import drain
        from pilothouse.server.app import PilothouseServer
    server = PilothouseServer(settings, initialiser=make, metrics=metrics)
    bound = await server.listen()
    if on_listening:
        on_listening(_addresses(settings, bound, ""))
    stop = asyncio.create_task(asked.event.wait())
    loading = asyncio.create_task(_load(server, models))
    try:
        await asyncio.wait({stop, loading, *server.tasks}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            # What start-up made stays: a full collection of it would stop every stream for a tenth of a second.
            gc.freeze()
            addresses = _addresses(settings, bound, next((model.name for model in server.catalog.all()), ""))
            log.info("ready", extra={"fields": {**addresses.as_dict(), "seconds": round(time.monotonic() - began, 2)}})
            if on_ready:
                on_ready(addresses)
            await asyncio.wait({stop, *server.tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in server.tasks:
            if task.done():
                raise RuntimeError("a port stopped answering") from task.exception()
        if loading.done():
            lame_duck, drain_seconds = settings.lame_duck_seconds, settings.drain_seconds
            log.info("draining: not ready for %g s, then up to %g s for what runs", lame_duck, drain_seconds)
            asked.clean = await drain.leave(server, lame_duck_seconds=lame_duck, drain_seconds=drain_seconds)
        return OK
    finally:
        stop.cancel()
        if not server.health.leaving:
            asked.clean = await drain.leave(server, lame_duck_seconds=0, drain_seconds=0) and loading.done()


async def _load(server: "PilothouseServer", models: Models) -> None:
    await server.load(await models())


def _addresses(settings: Settings, bound: dict[str, int], model: str) -> Addresses:
    at = {name: ports.located(settings.host, port) for name, port in bound.items()}
    scheme = "http" if settings.tls_certificate is None else "https"
    return Addresses(rest=f"{scheme}://{at['rest']}", grpc=at["grpc"], metrics=f"{scheme}://{at['metrics']}/metrics", model=model)


def _told(error: Exception) -> int:
    """Say in one line why the process ends; its exit code."""
    mendable = isinstance(error, StartError)
    reason = str(error) if mendable else f"the server broke: {type(error).__name__}: {error}"
    log.error("%s", " ".join(reason.split()), exc_info=log.isEnabledFor(logging.DEBUG))
    return MENDABLE if mendable else BROKEN


class _Asked:
    """Whether the process was asked to stop: from the first line of `serve` on, so that no signal finds Python's own handlers."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.clean = True  # no load and no engine was left behind in its thread
        self._early = False
        self._main = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if self._main else ():
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._early = True

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in SIGNALS if self._main else ():
            loop.add_signal_handler(number, self.event.set)
        if self._early:
            self.event.set()

    def ignore(self, loop: asyncio.AbstractEventLoop) -> None:
        """A second signal must not turn a clean stop into a kill while the process ends."""
        if not self._main:
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
    else:
        loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Close the loop without waiting for a thread that hangs, as `asyncio.run` would."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    asyncio.set_event_loop(None)
    loop.close()


def _end_threads(before: set[threading.Thread], code: int, *, clean: bool) -> None:
    """End the process here if a thread would keep it, or would be torn out of a library's code by the interpreter's own end."""
    deadline = time.monotonic() + 0.5
    ours = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in ours:
        thread.join(max(0.0, deadline - time.monotonic()))
    if not clean or any(thread.is_alive() for thread in ours):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
