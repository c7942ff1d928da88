"""The peers' environments, from their pinned files, made once and kept outside the checkout.

llama.cpp comes as source: it is compiled for this CPU, without what is no server, and on as many cores as there are.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.environments import environment

HERE = Path(__file__).parent

OFF = ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "USE_PREBUILT_UI", "OPENSSL")


def python_of(name: str) -> Path:
    """The interpreter of peers/requirements/`name`.txt."""
    os.environ.setdefault("LLAMA_CPP_BUILD_JOBS", str(os.cpu_count() or 1))
    os.environ.setdefault("CMAKE_ARGS", " ".join(f"-DLLAMA_{one}=OFF" for one in OFF))
    return environment(HERE / "peers" / "requirements" / f"{name}.txt")
