"""What bench-layers measures: a server that reads commands as JSON lines and answers in kind. Its engine is lent to a bare loop while nobody else
uses it: two engines of a kind differ by up to a tenth, by where their memory lies.

python layers_children.py MODEL
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from shadow import Shadow
from streams import Request, send

from pilothouse import settings as settings_room
from pilothouse.answering import Answerer
from pilothouse.chat.template import ChatTemplate
from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.base import Job
from pilothouse.engines.bench import Bench
from pilothouse.engines.driver import Stepping
from pilothouse.engines.entry import Entry
from pilothouse.engines.faults import Faults
from pilothouse.engines.ledger import Ledger
from pilothouse.engines.loop import Loop
from pilothouse.engines.plan import Limits
from pilothouse.engines.waiting import Waiting
from pilothouse.messages import ChatRequest, Message, Sampling
from pilothouse.models import loading, pocket, source
from pilothouse.models.loading import Loaded
from pilothouse.models.registry import Resolved
from pilothouse.settings import Settings
from support.scripted_loop import engine as scripted_engine

CONTEXT = 4096


def folder_of(model: str) -> Path:
    """Where a model's tokenizer is; the scripted engine (`scripted:MILLISECONDS`) borrows the pocket model's."""
    return pocket.FOLDER if model == "pocket" or model.startswith("scripted") else Path(model)


def scripted_options(model: str, settings: Settings) -> dict[str, Any]:
    """Steps of a fixed time, spent asleep."""
    seconds = float(model.partition(":")[2] or 0) / 1000
    return {"rows": settings.rows or 32, "context": CONTEXT, "tokens_per_step": 2048, "faults": Faults(delay_seconds=seconds)}


def formula(tokens: Any, size: int) -> int:
    """Any words will do, as long as they are cheap."""
    return 300 + (int(tokens[-1]) * 31 + len(tokens)) % 1500


class Bare:
    """The loop of `engines.loop` without its text, its queues and its readers: plan, compute, account."""

    def __init__(self, loaded: Loaded) -> None:
        assert isinstance(loaded.engine, Loop)
        assert loaded.tokenizer is not None
        assert loaded.template is not None
        self.template = loaded.template
        driver = loaded.engine._worker._driver
        assert isinstance(driver, Stepping)
        engine = driver._bench.engine
        self.bench = Bench(engine, loaded.tokenizer.size, None, _raise)
        self.limits = Limits(
            rows=min(engine.rows, engine.tokens_per_step),
            context=engine.context,
            tokens_per_step=engine.tokens_per_step,
            tokens_alone=engine.tokens_alone,
            sharing=engine.capabilities.prefix_cache,
            stages=engine.stages,
        )
        self.shadow = Shadow(driver, self.bench, self.limits)

    def run(self, requests: list[Request], clients: int, arrivals: list[float] | None = None) -> dict[str, Any]:
        """Each of `clients` has its next request answered as soon as the last one is; or every one comes in its second of `arrivals`."""
        owner = getattr(self.bench.engine, "_thread", None)
        if owner is not None:
            self.bench.engine._thread = threading.get_ident()  # the scripted engine is strict about who owns it
        try:
            return self._run(requests, clients, arrivals)
        finally:
            if owner is not None:
                self.bench.engine._thread = owner

    def _run(self, requests: list[Request], clients: int, arrivals: list[float] | None) -> dict[str, Any]:
        jobs = deque(
            Job(str(i), tuple(self.template.ids((Message("user", prompt),))), Sampling(temperature=0.0), tokens, min_tokens=tokens)
            for i, (prompt, tokens) in enumerate(requests)
        )
        waiting, began, cpu = Waiting(), time.perf_counter(), time.process_time()
        ledger = Ledger(self.bench, waiting, self.limits)
        times: list[tuple[float, float]] = []
        due = deque(began + second for second in arrivals or ())
        for _ in range(0 if due else min(clients, len(jobs))):
            waiting.add(Entry(jobs.popleft(), time.perf_counter()))
        while due or len(waiting) or ledger.running:
            if due and not len(waiting) and not ledger.running:
                time.sleep(max(0.0, due[0] - time.perf_counter()))
            while due and due[0] <= time.perf_counter():
                waiting.add(Entry(jobs.popleft(), due.popleft()))
            plan = ledger.plan(time.perf_counter())
            answers = self.bench.compute(plan.shares)
            outcomes = ledger.account(plan, [[sampled.token for sampled in answer] for answer in answers])
            now = time.perf_counter()
            for outcome in outcomes:
                if outcome.entry.answered == outcome.kept:
                    times.append((outcome.entry.arrived, now))
                if arrivals is None and outcome.reason is not None and jobs:
                    waiting.add(Entry(jobs.popleft(), now))
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "times": times}


def _raise(error: BaseException) -> None:
    raise error


class Text:
    """The served engine with text in and out, in the server's own process and on its event loop."""

    def __init__(self, loaded: Loaded) -> None:
        assert loaded.engine is not None
        assert loaded.tokenizer is not None
        self.answerer = Answerer(loaded.engine, loaded.tokenizer, loaded.template, check=lambda request: None)

    async def run(self, requests: list[Request], clients: int, arrivals: list[float] | None = None) -> dict[str, Any]:
        times, began, cpu = list[tuple[float, float]](), time.perf_counter(), time.process_time()

        async def one(asked: Request) -> None:
            prompt, tokens = asked
            request = ChatRequest((Message("user", prompt),), temperature=0.0, max_tokens=tokens, min_tokens=tokens, ignore_eos=True)
            sent, first = time.perf_counter(), True
            async for chunk in self.answerer.stream(request):
                if first:
                    times.append((sent, time.perf_counter()))
                    first = False
                assert chunk.usage is None or chunk.usage.completion_tokens == tokens

        await send(requests, clients, arrivals, one)
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu, "times": times}


def scripted(model: str, settings: Settings) -> Loaded:
    """The scripted engine as a loaded model."""
    described = source.describe(pocket.FOLDER, name="scripted")
    tokenizer = Tokenizer.from_folder(pocket.FOLDER)
    options = {"queue": settings.queue, "speculation": settings.speculation, "formula": formula, **scripted_options(model, settings)}
    loop = scripted_engine(tokenizer, **options)  # type: ignore[arg-type]  # a vocabulary like the scripted one
    loop.start()
    resolved, template = Resolved(uri="scripted", folder=pocket.FOLDER), ChatTemplate.from_folder(pocket.FOLDER, tokenizer)
    return Loaded(settings, "scripted", "1", described, resolved, described.defaults, engine=loop, tokenizer=tokenizer, template=template)


def say(told: Any) -> None:
    print(json.dumps(told), flush=True)


def serve(model: str, settings: Settings) -> int:
    from pilothouse.server import serving

    loaded = scripted(model, settings) if model.startswith("scripted") else loading.load(settings)
    text, bare = Text(loaded), Bare(loaded)
    future: Future[Loaded] = Future()
    future.set_result(loaded)

    def ready(addresses: serving.Addresses) -> None:
        loop = asyncio.get_running_loop()
        say(addresses.as_dict())

        def obey() -> None:
            for line in sys.stdin:
                command = json.loads(line)
                if command == "cpu":
                    say(time.process_time())
                elif command == "shadow ends":
                    say(bare.shadow.end())
                elif "shadow" in command:
                    bare.shadow.begin(command["shadow"])
                    say({})
                elif command.pop("bare", False):
                    say(bare.run(**command))
                else:
                    say(asyncio.run_coroutine_threadsafe(text.run(**command), loop).result())

        def obey_or_end() -> None:
            try:
                obey()
            except BaseException:
                traceback.print_exc()
                os._exit(1)  # somebody waits for a line

        threading.Thread(target=obey_or_end, daemon=True).start()

    return serving.serve(settings, future, on_ready=ready)


if __name__ == "__main__":
    [name] = sys.argv[1:]
    given = settings_room.load(model=None if name == "pocket" or name.startswith("scripted") else name)
    sys.exit(serve(name, given))
