"""A model that somebody logged the old way, with a pickled wrapper: its ONNX folder is served, its pickle never opened."""

from pathlib import Path
from typing import Any

import mlflow
import pytest

from pilothouse.models import manifest, pocket, registry, source

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Bomb:
    """Raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('unpickled')",))


def test_its_onnx_folder_is_described_and_its_pickle_left_alone(store: str) -> None:
    """`python_model=Phi3Model()`, `artifact_path=`, the artifact key of the contract."""

    with pytest.warns(UserWarning, match="Add type hints"):  # as people write it, MLflow advises otherwise

        class Phi3Model(mlflow.pyfunc.PythonModel):
            def __init__(self) -> None:
                self.bomb = Bomb()

            def load_context(self, context):
                raise AssertionError("never loaded")

            def predict(self, context, model_input, params=None):
                raise AssertionError("never asked")

    mlflow.set_tracking_uri(store)
    try:
        with mlflow.start_run(experiment_id="0") as run:
            mlflow.pyfunc.log_model(
                artifact_path="phi3-mini",
                python_model=Phi3Model(),
                artifacts={"phi3-mini-onnx": str(pocket.FOLDER)},
                model_config={"max_length": 123},
                pip_requirements=["mlflow"],
            )
    finally:
        mlflow.set_tracking_uri(None)

    resolved = registry.resolve(f"runs:/{run.info.run_id}/phi3-mini", tracking_uri=store)
    described = source.describe(resolved.folder, name=resolved.name)

    assert (resolved.folder / "python_model.pkl").is_file()
    assert manifest.verify(resolved.folder) is None
    assert (described.kind, described.model_name) == ("onnx", "phi3-mini")
    assert described.folder == resolved.folder / "artifacts" / Path(pocket.FOLDER).name
    assert described.defaults.max_length == 123
    with pytest.raises(SystemExit, match="unpickled"):  # that is what opening it would have done
        mlflow.pyfunc.load_model(str(resolved.folder))
