"""From Hugging Face's form to the int4 ONNX form, through onnxruntime-genai's own model builder."""

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from pilothouse.errors import ModelError

_NEEDED = ("onnxruntime_genai", "onnx", "onnx_ir", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Options:
    """How weights become 4 bits: weights that share a scale, and the builder's accuracy level (4: int8 activations)."""

    int4_block_size: int = 32
    int4_accuracy_level: int = 4


def demand_builder() -> None:
    """Raise `ModelError` where something that the builder needs is not installed."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise ModelError(f"exporting needs {', '.join(missing)}; pip install 'pilothouse[prepare]'")


def export(source: Path, folder: Path, options: Options | None = None) -> None:
    """The int4 ONNX form of the Hugging Face form at `source`, as the published Phi-3 files for CPUs are made.

    No hub is asked, and Python that the source names is not run. Raises `ModelError` with the builder's last line.
    """
    demand_builder()
    extra = [f"{name}={value}" for name, value in asdict(options or Options()).items()]
    with tempfile.TemporaryDirectory() as cache:
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu", "-c", cache]
        done = subprocess.run(
            [*builder, "-i", str(source), "-o", str(folder), "--extra_options", *extra],
            check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise ModelError(f"onnxruntime-genai's model builder could not export {source}: {last[:500]}")
