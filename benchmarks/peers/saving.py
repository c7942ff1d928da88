"""Saves the pyfunc around the Generator as an MLflow model: saving.py SLICE OUT. The weights are linked, not copied."""

import os
import shutil
import sys
from pathlib import Path

import mlflow


def main(folder: Path, out: Path) -> None:
    scratch = out.with_name(f"{out.name}.{os.getpid()}")
    mlflow.pyfunc.save_model(
        str(scratch),
        python_model=str(Path(__file__).with_name("pyfunc_generator.py")),
        artifacts={"model": str(folder)},
        pip_requirements=["mlflow"],
    )
    for file in (scratch / "artifacts").rglob("*.data"):
        file.unlink()
        os.link(next(folder.rglob(file.name)), file)
    if out.exists():
        shutil.rmtree(out)
    scratch.rename(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
