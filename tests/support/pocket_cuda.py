"""The pocket model exported for CUDA with PagedAttention: made once, kept outside the checkout. Making it needs torch and no GPU."""

import fcntl
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.pocket_hf import pocket_hf


def pocket_cuda(*, paged: bool = True) -> Path:
    """The fp16 folder, with PagedAttention or with GroupQueryAttention as plain exports have it. Safe in several processes at once."""
    source = pocket_hf()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pilothouse" / "pocket-cuda"
    wanted = cache / f"{source.name}-{importlib.metadata.version('onnxruntime-genai')}-{'paged' if paged else 'plain'}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{wanted.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wanted.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=cache))
            try:
                build = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(scratch / "onnx")]
                build += [
                    "-p",
                    "fp16",
                    "-e",
                    "cuda",
                    "--extra_options",
                    f"use_paged_attention={str(paged).lower()}",
                    "enable_cuda_graph=true",
                ]
                done = subprocess.run(build, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"})
                if done.returncode != 0:
                    raise RuntimeError(f"the export for CUDA failed:\n{done.stderr[-2000:]}")
                (scratch / "onnx").rename(wanted)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return wanted
