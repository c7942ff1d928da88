"""The peers' environments, from their pinned files, made once and kept outside the checkout.

llama.cpp comes as source: it is compiled for this CPU, without what is no server, and on as many cores as there are. Where the CPU has AMX it is
left out: compiled with GCC 12 its kernels end with an illegal instruction (tilezero) at the first prompt (11434, 2026-11-28).
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from pilothouse.engines import cpu
from support.environments import environment

HERE = Path(__file__).parent

OFF = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "USE_PREBUILT_UI", "OPENSSL")


def python_of(name: str) -> Path:
    """The interpreter of peers/requirements/`name`.txt."""
    os.environ.setdefault("LLAMA_CPP_BUILD_JOBS", str(os.cpu_count() or 1))
    options = [f"-DLLAMA_{one}=OFF" for one in OFF]
    if "amx" in cpu.features():
        options += ["-DGGML_NATIVE=OFF", *(f"-DGGML_{one}=ON" for one in ("AVX512", "AVX512_VBMI", "AVX512_VNNI", "AVX512_BF16"))]
    os.environ.setdefault("CMAKE_ARGS", " ".join(options))
    return environment(HERE / "peers" / "requirements" / f"{name}.txt")
