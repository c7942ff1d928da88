"""onnxruntime-genai's own two ways of serving: onnxruntime_genai_child.py (engine | generator) FOLDER THREADS

`engine` is og.Engine with static batches (what it has on CPUs), `generator` one request after the other.
"""

import json
import os
import sys
import time

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime_genai as og
from loads import Request, Told
from serving import serve


def by_engine(model: og.Model, requests: list[Request]) -> Told:
    engine = og.Engine(model)
    events = engine.create_event_buffer(64)
    began, times, open_ = time.perf_counter(), [[] for _ in requests], []
    for index, asked in enumerate(requests):
        session = og.RequestOptions()
        session.set_max_session_tokens(len(asked.prompt) + asked.tokens + 1)
        request = engine.create_request(options=session)
        turn = og.TurnOptions(request)
        turn.set_do_sample(False)
        turn.set_max_generated_tokens(asked.tokens)
        turn.set_min_generated_tokens(asked.tokens)
        request.begin_turn(np.array(asked.prompt, np.int32), turn)
        open_.append((request, index))
    while engine.has_pending_requests():
        for event in engine.run(events) or []:
            now = time.perf_counter() - began
            index = next(i for request, i in open_ if request == event.request)
            if event.flags & og.EngineEventFlags.TOKEN:
                times[index].append(now)
            if event.flags & og.EngineEventFlags.TURN_FINISHED:
                event.request.close()
                open_ = [one for one in open_ if one[1] != index]
    return Told(times, time.perf_counter() - began)


def by_generator(model: og.Model, requests: list[Request]) -> Told:
    began, times = time.perf_counter(), [[] for _ in requests]
    for index, asked in enumerate(requests):
        length = len(asked.prompt) + asked.tokens
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array(asked.prompt, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            times[index].append(time.perf_counter() - began)
    return Told(times, time.perf_counter() - began)


def main() -> None:
    way, folder, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    config = og.Config(folder)
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = og.Model(config)
    run = by_engine if way == "engine" else by_generator
    serve({"name": f"onnxruntime-genai {way}", "version": og.__version__, "threads": threads}, lambda requests, rows: run(model, requests))


if __name__ == "__main__":
    main()
