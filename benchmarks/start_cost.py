"""What starting costs on the ONNX path: time to ready and to the first token, memory, and the heavy imports that are (not) there.

    scripts/start-cost [RUNS]

Printed as medians with ranges; nothing is asserted. The yardstick is a bare `import mlserver` in the same run, interleaved.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.server import served

HEAVY = ("torch", "transformers", "mlflow", "pandas", "mlserver", "fastapi", "openvino", "onnxruntime", "onnxruntime_genai", "llguidance")


def bare_import() -> float:
    """Seconds of `import mlserver` in a fresh interpreter."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mlserver"], check=True, capture_output=True)
    return time.perf_counter() - begun


def start() -> dict[str, float]:
    """Seconds until ready, until the first answer, and the resident memory in MiB after it."""
    begun = time.perf_counter()
    with served() as server:
        ready = time.perf_counter() - begun
        body = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}], "max_tokens": 1}
        server.client.post("/v1/chat/completions", body)
        first = time.perf_counter() - begun
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+)", status)
        return {"ready": ready, "first answer": first, "RSS MiB": int(match[1]) / 1024 if match else float("nan")}


def imports() -> dict[str, bool]:
    """Which heavy packages a serving process holds once it is ready: told by such a process, which then stops itself."""
    code = f"""
import json, os, signal, sys
from pilothouse import settings
from pilothouse.models import loading
from pilothouse.server import serving
known = settings.load(rest_port=0, grpc_port=0, metrics_port=0, lame_duck_seconds=0)
def ready(addresses):
    print(json.dumps({{name: name in sys.modules for name in {HEAVY!r}}}), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit(serving.serve(known, loading.begin(known), on_ready=ready))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[0]))


def main(runs: int) -> None:
    print(f"machine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}")
    bare, ours = [], []
    for _ in range(runs):
        bare.append(bare_import())
        ours.append(start())
    rows = {"import mlserver, s": bare, **{name: [run[name] for run in ours] for name in ours[0]}}
    for name, values in rows.items():
        print(f"{name:<20} {statistics.median(values):8.2f}   ({min(values):.2f} to {max(values):.2f}, {runs} runs)")
    excess = statistics.median(o["ready"] - b for o, b in zip(ours, bare, strict=True))
    print(f"ready over the bare import, paired: {excess:+.2f} s")
    held = imports()
    print("imported:", ", ".join(name for name, there in held.items() if there))
    print("not imported:", ", ".join(name for name, there in held.items() if not there))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
