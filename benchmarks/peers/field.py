"""Every peer by its short name, on the slice, with the same rows and threads."""

import json
import sys
import tempfile
from pathlib import Path

import makers
from environments import python_of

from peers.base import LARGE_PAGES, Child, Peer
from peers.llama_server import LlamaServer

NAMES = ("paged", "slots", "openvino", "openvino f32", "llama", "og-engine", "og-generator")


def peer(name: str, *, rows: int, threads: int, layers: int = 0) -> Peer:
    """Not started yet; its model and its environment are there."""
    log = Path(tempfile.gettempdir()) / f"pilothouse-bench-{name.replace(' ', '-')}.log"
    if name in ("paged", "slots"):
        settings = {
            "engine": name,
            "rows": rows,
            "threads": threads,
            "kv_memory_bytes": 2 << 30,
            "speculation": False,
            "prefix_cache": False,
        }
        return Child(
            name, sys.executable, "ours.py", str(makers.model("onnx", layers)), json.dumps(settings), log=log, variables=LARGE_PAGES
        )
    if name.startswith("openvino"):
        python = python_of("openvino_genai")
        folder = makers.model("openvino", layers)
        options = {"properties": {"INFERENCE_PRECISION_HINT": "f32"}} if name.endswith("f32") else {}
        arguments = (str(folder), str(rows), str(threads), json.dumps(options))
        return Child(name, python, "openvino_genai_child.py", *arguments, log=log, variables=LARGE_PAGES)
    if name == "llama":
        python = python_of("llama_cpp")
        return LlamaServer(python, makers.model("gguf", layers) / "model.gguf", rows=rows, threads=threads, log=log)
    if name.startswith("og-"):
        way = name.removeprefix("og-")
        return Child(name, sys.executable, "onnxruntime_genai_child.py", way, str(makers.model("onnx", layers)), str(threads), log=log)
    raise SystemExit(f"no peer is named {name}; there are {', '.join(NAMES)}")
