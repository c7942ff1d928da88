"""One of our engines behind its loop, with sampling and text, on the server's event loop: ours.py FOLDER SETTINGS"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from loads import Request, Told
from serving import serve

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.base import Job, StepEngine
from pilothouse.engines.loop import Loop
from pilothouse.messages import Sampling
from pilothouse.models import source
from pilothouse.models.choosing import Choice
from pilothouse.settings import Settings


def engine_of(folder: Path, settings: Settings) -> Choice:
    """Makes the engine that `settings` choose."""
    described = source.describe(folder)
    return Choice(settings, described.kind, described.folder, described.context or 4096)


def loop_of(folder: Path, settings: Settings, make: Callable[[], StepEngine] | None = None, **options: Any) -> Loop:
    """A started loop of what `make` gives, or of the engine that `settings` choose; `options` are the loop's own."""
    made = make or engine_of(folder, settings)
    loop = Loop(made, Tokenizer.from_folder(folder), queue=1024, speculation=settings.speculation, **options)
    loop.start()
    return loop


def job(number: int, request: Request, sampling: Sampling) -> Job:
    return Job(str(number), tuple(request.prompt), sampling, request.tokens, min_tokens=request.tokens)


async def run(loop: Loop, requests: list[Request], sampling: Sampling) -> Told:
    """All at once, each read token by token."""
    began = time.perf_counter()

    async def one(number: int, request: Request) -> list[float]:
        times: list[float] = []
        async for chunk in loop.generate(job(number, request, sampling)):
            times.extend([time.perf_counter() - began] * len(chunk.tokens))
        return times

    times = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    return Told(list(times), time.perf_counter() - began)


def main() -> None:
    settings = Settings(**json.loads(sys.argv[2]))
    loop = loop_of(Path(sys.argv[1]), settings)
    try:
        serve(
            {"name": f"pilothouse {loop.name}", **loop.describe()},
            lambda requests, clients: uvloop.run(run(loop, requests, Sampling(temperature=0.0))),
        )
    finally:
        loop.stop()


if __name__ == "__main__":
    main()
