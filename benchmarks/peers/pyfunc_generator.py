"""A pyfunc around onnxruntime-genai's Generator, as one writes it after the library's example: the model of `mlflow models serve` and of MLServer.

Columns `prompt` and `max_tokens` in; a JSON text out for each row, for stock MLServer answers a DataFrame of strings with 500. PEER_THREADS: compute threads; unset, as the export says.
MLflow copies this file into the model, so it stands alone.
"""

import json
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class GeneratorModel(mlflow.pyfunc.PythonModel):  # type: ignore[name-defined,misc]  # MLflow's lazy names
    """One row after the other, greedily, the length that is asked for."""

    def load_context(self, context: Any) -> None:
        import onnxruntime_genai as og
        from tokenizers import Tokenizer

        folder = context.artifacts["model"]
        config = og.Config(folder)
        if threads := os.environ.get("PEER_THREADS"):
            config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": int(threads)}}}}))
        self._og, self._model = og, og.Model(config)
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))  # the library's own doesn't read the slice's vocabulary

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[str]:
        rows = zip(model_input["prompt"], model_input["max_tokens"], strict=True)
        return [self._answer(str(prompt), int(tokens)) for prompt, tokens in rows]

    def _answer(self, prompt: str, tokens: int) -> str:
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=len(ids) + tokens, min_length=len(ids) + tokens, do_sample=False)
        generator = self._og.Generator(self._model, params)
        generator.append_tokens(ids)
        answer: list[int] = []
        while not generator.is_done():
            generator.generate_next_token()
            answer.append(int(generator.get_next_tokens()[0]))
        return json.dumps({"text": self._tokenizer.decode(answer), "tokens": len(answer), "prompt_tokens": len(ids)})


mlflow.models.set_model(GeneratorModel())
