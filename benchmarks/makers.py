"""The benchmarks' models: one seeded checkpoint of Phi-3-mini's width in the formats of every peer, made once and kept outside the checkout.

    .venv/bin/python benchmarks/makers.py [--layers 4] [onnx gguf openvino]

4 layers take a minute or two for each format and 2 GB in all; 32 are the whole Phi-3-mini.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from environments import python_of

HERE = Path(__file__).parent

FORMATS = ("onnx", "gguf", "openvino")
SLICE = 4
LAYERS = SLICE  # where nobody says another number; bench --layers changes it for its run
BUILDER = ["-p", "int4", "-e", "cpu", "--extra_options", "int4_block_size=32", "int4_accuracy_level=4"]


def model(form: str, layers: int = 0) -> Path:
    """The folder of the slice in this format; made when it is missing. Safe in several processes at once."""
    layers = layers or LAYERS
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "bench"
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / f"slice{layers}-{_digest(form, layers)}" / form
    with (cache / f"slice{layers}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            wanted.parent.mkdir(exist_ok=True)
            checkpoint = _checkpoint(wanted.parent, layers)
            scratch = Path(tempfile.mkdtemp(dir=cache))
            try:
                _convert(form, checkpoint, scratch / form)
                (scratch / form).rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            if all((wanted.parent / other).is_dir() for other in FORMATS):
                shutil.rmtree(checkpoint)
    return wanted


def checkpoint(layers: int = 0) -> Path:
    """The checkpoint itself, in bf16, made again when it is gone."""
    layers = layers or LAYERS
    return _checkpoint(model("onnx", layers).parent, layers)


def bits_per_weight(form: str, layers: int = 0) -> float:
    """Of the folder's files, over the checkpoint's parameters: embeddings that stay wide are in it."""
    layers = layers or LAYERS
    parameters = layers * 3072 * (3 * 3072 + 3072 + 3 * 8192) + 2 * 32064 * 3072
    folder = checkpoint(layers) if form == "checkpoint" else model(form, layers)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) * 8 / parameters


def _digest(form: str, layers: int) -> str:
    files = [HERE / "making" / name for name in ("checkpoint.py", "tokenizer.py")]
    facts = [layers, *(file.read_text() for file in files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _checkpoint(home: Path, layers: int) -> Path:
    made = home / "checkpoint"
    if not (made / "tokenizer.json").is_file():
        _run(sys.executable, str(HERE / "making" / "checkpoint.py"), str(layers), str(made))
    return made


def _convert(form: str, checkpoint: Path, out: Path) -> None:
    if form == "onnx":
        _run(sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint), "-o", str(out), *BUILDER)
    elif form == "gguf":
        out.mkdir()
        _run(str(python_of("llama_cpp")), str(HERE / "making" / "to_gguf.py"), str(checkpoint), str(out / "model.gguf"))
    else:
        _run(str(python_of("openvino_convert")), str(HERE / "making" / "to_openvino.py"), str(checkpoint), str(out))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(checkpoint / name, out / name)


def _run(*command: str) -> None:
    print("making:", *command[1:4], file=sys.stderr, flush=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:4])} failed:\n{done.stderr[-2000:]}")


def versions() -> dict[str, str]:
    """Of what computes, to stand beside every figure."""
    return {name: metadata.version(name) for name in ("openvino", "onnxruntime", "onnxruntime-genai", "numpy")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="makers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=FORMATS)
    parser.add_argument("--layers", type=int, default=4)
    asked = parser.parse_args()
    for form in asked.formats:
        print(form, model(form, asked.layers), f"{bits_per_weight(form, asked.layers):.2f} bits a weight")
