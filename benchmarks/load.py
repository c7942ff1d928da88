"""What loading a model of full depth costs: seconds until it is loaded, warm and has answered, and memory at its peak and after.

Each engine in a process of its own, with the files in the page cache, and a fixed memory for keys and values. `held` is memory of the process alone;
the rest of `resident` are pages of the model's files, which the machine can take back. Weights once in memory are about as much as the files.

    scripts/bench-load [--model FOLDER] [--layers 32] [--engines paged slots genai] [--json FILE]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MIB = 1 << 20
KEPT = Path(__file__).parent / "results" / "load.json"


def deep(folder: Path, layers: int) -> Path:
    """The folder at that depth, made once and kept outside the checkout."""
    config = json.loads((folder / "genai_config.json").read_text())
    if config["model"]["decoder"]["num_hidden_layers"] == layers:
        return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "deep"
    wanted = cache / f"{folder.name}-{layers}"
    if not wanted.is_dir():
        from deepen import deepen

        scratch = cache / f"{wanted.name}.{os.getpid()}"
        deepen(folder, scratch, layers).rename(wanted)
    return wanted


def child(engine: str, folder: Path) -> dict[str, float]:
    """Load here, and say what it cost."""
    from pilothouse.engines.bench import Bench
    from pilothouse.engines.plan import Limits
    from pilothouse.models.choosing import Choice
    from pilothouse.settings import Settings

    began = time.perf_counter()
    before = _memory()
    choice = Choice(Settings(engine=engine, context_tokens=512, rows=4, kv_memory_bytes=1 << 30), "onnx", folder, 4096)  # type: ignore[arg-type]  # a name from the command line
    made: Any = choice()
    loaded, after_load = time.perf_counter(), _memory()
    bench = Bench(made, 32064, None, lambda error: None)
    made.warm_up()
    warm = time.perf_counter()
    limits = Limits(made.rows, made.context, made.tokens_per_step)
    bench.answer_once(limits, 0.0)  # warms up once more, in the time that a warm engine needs
    ready, after = time.perf_counter(), _memory()
    again = time.perf_counter()
    made.admit(0, [1, 2, 3], "")
    from pilothouse.engines.base import Work

    made.step([Work(0, [1, 2, 3], 1)])
    return {
        "load_seconds": loaded - began,
        "warm_seconds": warm - loaded,
        "ready_seconds": ready - began,
        "first_request_step_seconds": time.perf_counter() - again,
        "before_mib": before["held"],
        "loaded_resident_mib": after_load["resident"],
        "loaded_held_mib": after_load["held"],
        "resident_mib": after["resident"],
        "held_mib": after["held"],
        "peak_resident_mib": after["peak"],
    }


def _memory() -> dict[str, float]:
    """MiB: resident, of it the process's alone, and the most that was resident."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    mib = {name: int(status[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}
    return {"resident": mib["VmRSS"], "held": mib["RssAnon"], "peak": mib["VmHWM"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="an export of the model builder, of any depth from two layers on (default: the pocket model)"
    )
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--engines", nargs="+", default=["paged", "slots", "genai"])
    parser.add_argument("--json", type=Path, default=KEPT, help="kept there (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args.child, args.model)))
        return
    from pilothouse.engines import cpu
    from pilothouse.models import pocket

    source = args.model or pocket.FOLDER
    folder = deep(source, args.layers)
    files = sum(file.stat().st_size for file in folder.iterdir()) / MIB
    for file in folder.iterdir():
        with file.open("rb") as opened:
            while opened.read(64 * MIB):  # into the page cache
                continue
    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    kept |= {
        "machine": {"cpu": cpu.model(), "features": sorted(cpu.features()), "cores": os.cpu_count(), "kernel": platform.release()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": f"{source.name}, {args.layers} layers",
        "files_mib": files,
    }
    for engine in args.engines:
        command = [sys.executable, __file__, "--child", engine, "--model", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{engine} did not load:\n{done.stderr[-2000:]}")
        told = {**json.loads(done.stdout.splitlines()[-1]), "load_average": os.getloadavg()[0]}  # beyond the cores the seconds are void
        kept.setdefault("engines", {})[engine] = {name: round(value, 2) for name, value in told.items()}
        line = ", ".join(f"{name.replace('_', ' ')} {value:.1f}" for name, value in told.items())
        args.json.parent.mkdir(exist_ok=True)
        args.json.write_text(json.dumps(kept, indent=1) + "\n")  # after each: the next one takes minutes
        print(f"{engine}: files {files:.0f} MiB; {line}", flush=True)


if __name__ == "__main__":
    main()
