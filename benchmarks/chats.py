"""How many chats of 512 tokens fit where og.Engine's defaults hold four, and what loading a model takes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import machine
import makers
from peers import ours
from peers.loads import WORDS

from pilothouse.settings import Settings

CHAT = 512
STATIC_ROWS = 4  # og.Engine's static batch


def engine_memory(folder: Path) -> int:
    """Bytes of keys and values that og.Engine sets aside for its batch: its default session is the model's whole window, in fp32."""
    told = json.loads((folder / "genai_config.json").read_text())["model"]
    decoder = told["decoder"]
    token = decoder["num_hidden_layers"] * decoder["num_key_value_heads"] * decoder["head_size"] * 2 * 4
    return int(STATIC_ROWS * told["context_length"] * token)


def admitted(engine: str, precision: str, memory: int) -> int:
    """Chats of 512 tokens, prompt and answer, that `engine` takes at once with `memory` bytes for keys and values; none shares a prefix."""
    settings = Settings(
        engine=engine, kv_precision=precision, kv_memory_bytes=memory, rows=512, context_tokens=CHAT, prefix_cache=False
    )  # fmt: skip
    step = ours.engine_of(makers.model("onnx"), settings)()
    count = 0
    while count < 512 and step.admit(count, [WORDS[0] + count] * CHAT, "") is not None:
        count += 1
    step.close()
    return count


def loading(engine: str, layers: int) -> dict[str, float]:
    """Seconds and memory of a load in a fresh process, warm-up included; `held` is what no other process could share."""
    folder = makers.model("onnx", layers)
    command = [sys.executable, "-W", "ignore", __file__, engine, str(folder)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    told["files_mib"] = sum(file.stat().st_size for file in folder.iterdir()) / (1 << 20)
    return dict(told)


def measure(layers: int = 4) -> dict[str, Any]:
    """All of it: plain numbers, none of them a time that a neighbour could change but the load's seconds."""
    memory = engine_memory(makers.model("onnx"))
    with machine.Watch() as watch:
        loads = {engine: loading(engine, layers) for engine in ("paged", "slots")}
    ways = {"paged, fp16": ("paged", "fp16"), "paged, u8": ("paged", "u8"), "slots, fp32": ("slots", "fp16")}
    return {
        "memory_mib": memory / (1 << 20),
        "og.Engine, fp32": {"chats": STATIC_ROWS},
        **{name: {"chats": admitted(*way, memory)} for name, way in ways.items()},
        "loads": loads,
        "others": watch.others,
    }


def _load(engine: str, folder: str) -> None:
    began = time.perf_counter()
    step = ours.engine_of(Path(folder), Settings(engine=engine, rows=16, kv_memory_bytes=1 << 30))()
    loaded = time.perf_counter() - began
    step.warm_up()
    status = {}
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
        name, _, value = line.partition(":")
        status[name] = int(value.split()[0]) / 1024
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(
        json.dumps(
            {
                "load_seconds": loaded,
                "ready_seconds": time.perf_counter() - began,
                "resident_mib": status["Rss"],
                "held_mib": status["Anonymous"],
                "peak_mib": int(peak.split()[1]) / 1024,
            }
        )
    )


if __name__ == "__main__":
    _load(sys.argv[1], sys.argv[2])
