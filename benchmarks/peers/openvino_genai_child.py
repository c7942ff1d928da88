"""OpenVINO GenAI's continuous batching, in process or behind a thin server: openvino_genai_child.py FOLDER ROWS THREADS OPTIONS [PORT]"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from loads import Request
from serving import serve
from stepping import drive
from thin_server import ThinServer, words_of


class BatchingSteps:
    """The pipeline, stepped; of every request no more and no fewer tokens than asked for, greedily."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._config = genai.GenerationConfig()
        self._config.do_sample, self._config.ignore_eos = False, True
        self._open: dict[int, list[Any]] = {}  # its handle, and how many tokens are to come
        self._begun = 0

    @property
    def busy(self) -> bool:
        return bool(self._open)

    def add(self, number: int, request: Request) -> None:
        self._begun += 1
        self._config.max_new_tokens = self._config.min_new_tokens = request.tokens
        prompt = openvino.Tensor(np.array([request.prompt], np.int64))
        self._open[number] = [self._pipeline.add_request(self._begun, prompt, self._config), request.tokens]

    def step(self) -> list[tuple[int, list[int]]]:
        self._pipeline.step()
        told = []
        for number, one in list(self._open.items()):
            tokens: list[int] = []
            while one[0].can_read():
                for output in one[0].read().values():
                    tokens.extend(output.generated_ids)
            if tokens:
                told.append((number, tokens))
                one[1] -= len(tokens)
                if one[1] <= 0:
                    del self._open[number]
        return told


def main() -> None:
    folder, rows, threads, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs = rows
    scheduler.cache_size = 2  # GB
    scheduler.enable_prefix_caching = False
    for name, value in options.get("scheduler", {}).items():
        setattr(scheduler, name, value)
    properties = {"INFERENCE_NUM_THREADS": threads, **options.get("properties", {})}
    pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties, {}, {})
    steps = BatchingSteps(pipeline)
    facts = {"name": "OpenVINO GenAI", "version": genai.get_version(), "properties": properties, "scheduler": options.get("scheduler", {})}
    if len(sys.argv) > 5:
        asyncio.run(ThinServer(steps, words_of(Path(folder))).run(int(sys.argv[5])))
    else:
        serve(facts, lambda requests, clients: drive(steps, requests, clients))


if __name__ == "__main__":
    main()
