"""OpenVINO GenAI's continuous batching, stepped in its own process: openvino_genai_child.py FOLDER ROWS THREADS OPTIONS"""

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai as genai
from loads import Request, Told
from serving import serve


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
    config = genai.GenerationConfig()
    config.do_sample, config.ignore_eos = False, True
    number = 0

    def run(requests: list[Request], rows: int) -> Told:
        nonlocal number
        began, times, handles = time.perf_counter(), [[] for _ in requests], {}
        for index, request in enumerate(requests):
            config.max_new_tokens = config.min_new_tokens = request.tokens
            number += 1
            handles[index] = pipeline.add_request(number, openvino.Tensor(np.array([request.prompt], np.int64)), config)
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter() - began
            for index, handle in list(handles.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        times[index].extend([now] * len(output.generated_ids))
                if len(times[index]) >= requests[index].tokens:
                    del handles[index]
        return Told(times, time.perf_counter() - began)

    serve(
        {"name": "OpenVINO GenAI", "version": genai.get_version(), "properties": properties, "scheduler": options.get("scheduler", {})}, run
    )


if __name__ == "__main__":
    main()
