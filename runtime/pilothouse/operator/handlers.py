"""The watches, by kopf: whatever changes of ours is kept in the store and wakes its LanguageModel. The one file that imports kopf.

kopf's own state (annotations, finalizers, progress) is not used: a resource without a finalizer can be deleted while no operator runs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

from pilothouse.operator import leader, web
from pilothouse.operator.cluster import KINDS, Cluster, Refused, Unreachable
from pilothouse.operator.controller import Controller
from pilothouse.operator.metrics import Metrics
from pilothouse.operator.queue import Queue
from pilothouse.operator.registry import MlflowRegistry
from pilothouse.operator.spec import GROUP, KIND, OWNER, PLURAL, VERSION, Key
from pilothouse.operator.store import Store

log = logging.getLogger("pilothouse.operator")
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """How this process runs. `namespace` is its own, for the Lease; `namespaces` are watched, none means all."""

    namespace: str
    namespaces: tuple[str, ...] = ()
    port: int = 8080
    lease: str = "pilothouse-operator"
    webhook_secret: Path | None = None


class Operator:
    """Queue, workers, election and port, joined to kopf's watches."""

    def __init__(
        self, options: Options, cluster: Cluster, controller: Controller, store: Store, registry: MlflowRegistry, metrics: Metrics, renders: Callable[[], int]
    ) -> None:  # fmt: skip
        self.options, self.cluster, self.controller, self.store, self.metrics = options, cluster, controller, store, metrics
        self._registry, self._renders = registry, renders
        self._leads = threading.Event()
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # -- watching -----------------------------------------------------------------------------------------------------------------

    def register(self, registry: kopf.OperatorRegistry) -> None:
        """One plain watch for each kind, narrowed by the API server to what is ours."""
        for kind, (version, plural) in KINDS.items():
            if kind == "Event":
                continue
            group, _, number = version.rpartition("/")
            if kind == KIND:
                group, number, plural = GROUP, VERSION, PLURAL

            kopf.on.event(group, number, plural, id=kind.lower(), registry=registry)(self._watcher(kind))

    def _watcher(self, of: str) -> Callable[..., None]:
        def seen(event: Any, **_: Any) -> None:
            self._seen(of, event["type"], event["object"])

        return seen

    def _seen(self, kind: str, what: str | None, body: Any) -> None:
        key = self.store.drop(kind, dict(body)) if what == "DELETED" else self.store.put(kind, dict(body))
        if key:
            self.queue.add(key)

    # -- working ------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the process is told to stop, or no longer leads."""
        self.queue = Queue()
        loop = asyncio.get_running_loop()
        threads = ThreadPoolExecutor(WORKERS, thread_name_prefix="reconcile")

        async def changed(name: str) -> bool:
            try:
                await loop.run_in_executor(threads, self.controller.tell, name)
            except (Refused, Unreachable) as failure:
                log.warning("a webhook could not be passed on: %s", failure)
                return False
            return True

        file = self.options.webhook_secret
        secret = (lambda: file.read_text().strip()) if file else None
        app = web.application(alive=self._alive, metrics=self._exposition, changed=changed, secret=secret)
        runner = await web.serve(app, self.options.port)
        started = asyncio.Event()

        def lead() -> None:
            log.info("%s leads", self.cluster.identity)
            self._leads.set()
            loop.call_soon_threadsafe(started.set)

        def stop() -> None:
            loop.call_soon_threadsafe(self._stop.set)

        leader.elect(self.options.lease, self.options.namespace, self.cluster.identity, started=lead, stopped=stop)
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        self.register(registry)
        watches = asyncio.create_task(
            kopf.operator(
                registry=registry, settings=_settings(), standalone=True, clusterwide=not self.options.namespaces,
                namespaces=self.options.namespaces, stop_flag=self._stop,
            )
        )  # fmt: skip
        self._tasks = [asyncio.create_task(self._work(started, threads)) for _ in range(WORKERS)]
        self._tasks.append(watches)
        try:
            done, _ = await asyncio.wait([*self._tasks, asyncio.create_task(self._stop.wait())], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stop.set()
            for task in self._tasks[:-1]:
                task.cancel()
            await asyncio.wait([watches], timeout=10)
            await runner.cleanup()
            threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, started: asyncio.Event, threads: ThreadPoolExecutor) -> None:
        await started.wait()
        loop = asyncio.get_running_loop()
        while True:
            key = await self.queue.get()
            begun = time.perf_counter()
            try:
                again = await loop.run_in_executor(threads, self.controller.reconcile, key)
            except Unreachable as failure:
                self._ended(key, "again", begun, None)
                log.warning("%s: %s; again later", key, failure)
            except Exception:
                self._ended(key, "failed", begun, None)
                log.exception("%s: the reconcile failed; again later", key)
            else:
                self._ended(key, "ok", begun, again)

    def _ended(self, key: Key, outcome: str, begun: float, again: float | None) -> None:
        self.metrics.reconciles.labels(outcome).inc()
        self.metrics.seconds.observe(time.perf_counter() - begun)
        self.queue.done(key, again, failed=outcome != "ok")

    # -- telling ------------------------------------------------------------------------------------------------------------------

    def _alive(self) -> bool:
        return not any(task.done() for task in self._tasks)

    def _exposition(self) -> bytes:
        self.metrics.calls.set(self.cluster.calls.total())
        self.metrics.asked.set(self._registry.calls)
        self.metrics.renders.set(self._renders())
        self.metrics.leading.set(self._leads.is_set())
        self.metrics.overdue.set(self.queue.overdue if self._leads.is_set() else 0)  # who waits works on nothing
        return self.metrics.text(self.store.models())


def _login(**context: Any) -> Any:
    """The pod's account, whose token is read anew when it has changed; else the kubeconfig's."""
    return kopf.login_with_service_account(**context) or kopf.login_with_kubeconfig(**context)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our events say what happened to a model, not what a library does
    settings.scanning.disabled = True  # watching for new kinds would take a right over all of the cluster's; a restart finds them
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 310
    for kind, (version, plural) in KINDS.items():
        if kind not in (KIND, "Event"):
            settings.watching.label_selectors[version.rpartition("/")[0], plural] = OWNER
    return settings
