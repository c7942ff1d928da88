"""An MLflow pyfunc whose author wrote plain blocking Python: it loads, and answers, when a file is there. Logged as code."""

import time
from pathlib import Path

import mlflow
from mlflow.pyfunc import PythonModel


class Gate(PythonModel):
    """The files are in the folder that its configuration names: `loads`, `answers`. One with a word in it makes it fail with that word."""

    def load_context(self, context):
        self.folder = Path(context.model_config["folder"])
        self._wait("loads")

    def predict(self, context, model_input: list[str]) -> list[str]:
        self._wait("answers")
        return model_input

    def _wait(self, name: str) -> None:
        (self.folder / f"{name}-waiting").touch()
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(name)
            time.sleep(0.02)
        if word := (self.folder / name).read_text():
            raise ValueError(word)


mlflow.models.set_model(Gate())
