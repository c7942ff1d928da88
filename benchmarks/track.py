"""Keeps what a benchmark wrote with --json as a run in MLflow Tracking, so that it can be compared with others.

    scripts/bench-track NAME FILE [--model FOLDER] [--tracking-uri URI] [--experiment NAME]

Numbers of the file become metrics and everything else parameters, named by their place in it; lists of many numbers stay in the file, which is
the run's artifact. The model that was measured is the run's input.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilothouse.models import logbook, manifest, pocket, runs

MOST = 8  # numbers of a list that are metrics of their own


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no other, with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list) and len(value) <= MOST:
        for index, inner in enumerate(value):
            yield from leaves(inner, f"{place}.{index}")
    elif not isinstance(value, list):
        yield re.sub(r"[^A-Za-z0-9_. /-]+", "_", place), value


def track(name: str, file: Path, model: Path, target: logbook.Target) -> str:
    """Log the file's figures; the run's address."""
    found = dict(leaves(json.loads(file.read_text())))
    numbers = {key: float(value) for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    params = {key: value for key, value in found.items() if key not in numbers}
    with (
        logbook.session(target, model, print, copies=False) as session,
        runs.started(session.flow, session.address, "bench", name, experiment_name=target.experiment, params=params) as run,
    ):
        flow = session.flow
        runs.log_folder(flow, model, model.name, "bench")
        flow.log_metrics(numbers)
        flow.log_artifact(str(file))
        if (sealed := manifest.verify(model)) is not None:
            flow.set_tag(manifest.KEY, sealed.digest)
        return runs.page(session.address, run)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-track", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the benchmark, as in layers")
    parser.add_argument("file", type=Path, help="what it wrote with --json")
    parser.add_argument("--model", type=Path, default=pocket.FOLDER, metavar="FOLDER", help="what was measured (default: the pocket model)")
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here)")
    parser.add_argument("--experiment", default="pilothouse-bench", help="MLflow experiment (default: %(default)s)")
    args = parser.parse_args()
    target = logbook.Target(tracking_uri=args.tracking_uri, experiment=args.experiment)
    print(f"run: {track(args.name, args.file, args.model, target)}")


if __name__ == "__main__":
    main()
