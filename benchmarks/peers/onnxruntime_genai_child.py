"""onnxruntime-genai's own two ways of serving: onnxruntime_genai_child.py (engine | generator) FOLDER THREADS

`engine` is og.Engine with static batches (what it has on CPUs), `generator` one request after the other. 0 threads: the library's own choice.
"""

import json
import os
import sys
from collections import deque

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime_genai as og
from loads import Request
from serving import serve
from stepping import Steps, drive


class EngineSteps:
    """og.Engine, with sessions no longer than what is asked."""

    def __init__(self, model: og.Model) -> None:
        self._engine = og.Engine(model)
        self._events = self._engine.create_event_buffer(64)
        self._open: list[tuple[og.Request, int]] = []

    @property
    def busy(self) -> bool:
        return bool(self._engine.has_pending_requests())

    def add(self, number: int, request: Request) -> None:
        session = og.RequestOptions()
        session.set_max_session_tokens(len(request.prompt) + request.tokens + 1)
        opened = self._engine.create_request(options=session)
        turn = og.TurnOptions(opened)
        turn.set_do_sample(False)
        turn.set_max_generated_tokens(request.tokens)
        turn.set_min_generated_tokens(request.tokens)
        opened.begin_turn(np.array(request.prompt, np.int32), turn)
        self._open.append((opened, number))

    def step(self) -> list[tuple[int, list[int]]]:
        told = []
        for event in self._engine.run(self._events) or []:
            number = next(number for request, number in self._open if request == event.request)
            if event.flags & og.EngineEventFlags.TOKEN:
                told.append((number, [0]))
            if event.flags & og.EngineEventFlags.TURN_FINISHED:
                event.request.close()
                self._open = [one for one in self._open if one[1] != number]
        return told


class GeneratorSteps:
    """One request after the other, a token a step."""

    def __init__(self, model: og.Model) -> None:
        self._model = model
        self._waiting: deque[tuple[int, Request]] = deque()
        self._now: tuple[int, og.Generator] | None = None

    @property
    def busy(self) -> bool:
        return self._now is not None or bool(self._waiting)

    def add(self, number: int, request: Request) -> None:
        self._waiting.append((number, request))

    def step(self) -> list[tuple[int, list[int]]]:
        if self._now is None:
            number, request = self._waiting.popleft()
            length = len(request.prompt) + request.tokens
            params = og.GeneratorParams(self._model)
            params.set_search_options(max_length=length, min_length=length, do_sample=False)
            generator = og.Generator(self._model, params)
            generator.append_tokens(np.array(request.prompt, np.int32))
            self._now = number, generator
        number, generator = self._now
        generator.generate_next_token()
        if generator.is_done():
            self._now = None
        return [(number, [0])]


def main() -> None:
    way, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = og.Config(folder)
    if threads:
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    steps: Steps = EngineSteps(model) if way == "engine" else GeneratorSteps(model)
    facts = {"name": f"onnxruntime-genai {way}", "version": og.__version__, "threads": threads}
    serve(facts, lambda requests, clients: drive(steps, requests, clients))


if __name__ == "__main__":
    main()
