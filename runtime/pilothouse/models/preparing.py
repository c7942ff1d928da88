"""The first step of the cycle: a model is trained, or taken from a folder, and exported to int4 ONNX; all of it one MLflow run.

What it makes is a folder that `pilothouse serve` and `pilothouse package onnx` take, with a manifest of its files' digests.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import exporting, logbook, manifest, placing, pretrained, runs
from pilothouse.models.exporting import Options
from pilothouse.models.logbook import Say, Target
from pilothouse.models.packaging import POCKET, requirements


@dataclass(frozen=True, slots=True)
class Prepared:
    """A folder ready to be packaged: the digest of its manifest, the run that made it and the run's address for people."""

    folder: Path
    digest: str
    run_id: str
    page: str


def prepare(
    source: Path | str = POCKET,
    folder: Path | str = "model",
    *,
    target: Target | None = None,
    options: Options | None = None,
    say: Say = lambda line: None,
) -> Prepared:
    """Export the Hugging Face folder `source` (`pocket`: train the embedded model anew) to `folder`, made or replaced once it is whole.

    Only the store and the experiment of `target` count. Raises `ModelError`: no such folder, one that is not served here, something that
    training or exporting needs is not installed, or a store that does not take it.
    """
    exporting.demand_builder()
    where, out, options = Path(source), Path(folder), options or Options()
    trained = str(source) == POCKET
    if not trained:
        if not where.is_dir():
            raise ModelError(f"{where} is not a folder; give a Hugging Face folder, or {POCKET!r} to train the embedded model")
        pretrained.check(where, ignore_own_code=True)  # named code is not run: the builder takes transformers' own
    began = time.monotonic()
    with (
        placing.incoming(out) as arriving,
        logbook.session(target, Path() if trained else where, say, copies=False) as session,
        runs.started(
            session.flow,
            session.address,
            "prepare",
            "prepare",
            experiment_name=session.target.experiment,
            params={"source": POCKET if trained else where.absolute(), **asdict(options), **_tools()},
        ) as run,
    ):
        if trained:
            where = arriving / "hf"
            _train(session.flow, where, say)
        else:
            runs.log_folder(session.flow, where, where.name, "export")
        say("exporting to int4 ONNX")
        exporting.export(where, arriving / "onnx", options)
        for licence in sorted(where.glob("LICENSE*"))[:1]:
            shutil.copyfile(licence, arriving / "onnx" / licence.name)
        sealed = manifest.seal(arriving / "onnx")
        logbook.log_exported(session.flow, sealed, began)
        session.flow.log_artifact(str(arriving / "onnx" / "genai_config.json"))
        placing.put(arriving / "onnx", out)
        return Prepared(out, sealed.digest, run.info.run_id, runs.page(session.address, run))


def _train(flow: ModuleType, folder: Path, say: Say) -> None:
    """The pocket model's Hugging Face form: its table is the run's input, what it was trained with are parameters, its loss is a metric."""
    import pandas as pd

    from pilothouse.models.pocket import training
    from pilothouse.models.pocket.answers import PAIRS

    table = pd.DataFrame(PAIRS, columns=["question", "answer"])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "table.json"
        table.to_json(file, orient="records", indent=1)
        flow.log_artifact(str(file), "data")
    dataset = runs.table(table, flow.get_artifact_uri("data/table.json"), "pocket-table", "answer")
    flow.log_input(dataset, context="training")
    flow.log_params(_hyperparameters(training))
    say("training the pocket model (a minute or two on two cores)")
    training.make_hf(folder, lambda name, value, step: flow.log_metric(name, value, step=step))


def _hyperparameters(training: ModuleType) -> Mapping[str, Any]:
    names = ("SEED", "VOCABULARY", "WIDTH", "LAYERS", "HEADS", "FEED", "WINDOW", "ROW", "BATCH", "STEPS", "RATE", "GRID_FROM")
    return {name.lower(): getattr(training, name) for name in names}


def _tools() -> Mapping[str, str]:
    """Versions of what trains and exports."""
    pins = requirements("onnxruntime-genai", "onnx", "onnx-ir", "torch", "transformers")
    return dict(pin.split("==", 1) for pin in pins)
