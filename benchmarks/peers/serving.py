"""The child's side of a peer: reads loads as JSON lines, answers in kind. Runs in every peer's own environment."""

import json
import sys
from collections.abc import Callable
from typing import Any

from loads import Request, Told, loaded


def serve(facts: dict[str, Any], run: Callable[[list[Request], int | None], Told]) -> None:
    """Say hello with `facts`, then run every load that comes: `run` gets the requests, and how many may be open at once (None: all)."""
    out = sys.stdout
    sys.stdout = sys.stderr  # what libraries print is not ours
    print(json.dumps(facts), file=out, flush=True)
    for line in sys.stdin:
        told = run(*loaded(line))
        print(json.dumps({"times": told.times, "seconds": told.seconds, "sent": told.sent}), file=out, flush=True)
