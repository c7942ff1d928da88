"""Runs a foreign client's script in a process of its own and reads back what it got."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.environments import environment

CLIENTS = Path(__file__).parents[1] / "clients"
PATIENCE = 150.0


def told_by(script: str, *arguments: str, requirements: str | None = None) -> dict[str, Any]:
    """The JSON that tests/clients/`script` prints; with `requirements`, in the environment that the file of that name pins."""
    python = str(environment(CLIENTS / "requirements" / f"{requirements}.txt")) if requirements else sys.executable
    # A client must not find what this process was given: keys, proxies for other hosts, telemetry.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTHONPATH"))}
    done = subprocess.run(
        [python, str(CLIENTS / script), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, env=clean
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))
