"""Phi-3 in ONNX form as an MLflow model, step by step: wrap it, log it, register it, load it, ask it.

Run it as it is for the small model in the wheel, or give it the folder of a real one, as onnxruntime-genai's model builder makes it:

    python examples/onnx_pyfunc.py [FOLDER]

`pilothouse package onnx FOLDER --register phi3` does the same in one line, with a manifest of the files' digests on top.
"""

import sys
from pathlib import Path

import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from pilothouse.models import phi3_onnx, pocket

# The folder with genai_config.json, the graph, its weights and the tokenizer.
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else pocket.FOLDER

# The wrapper is an ordinary mlflow.pyfunc.PythonModel in a file of its own. MLflow copies that file into the model ("models from code"):
# nothing is pickled, and the file needs no Pilothouse where it runs. Copy it and change it as you like.
wrapper = phi3_onnx.__file__

# One column in, one text out.
signature = ModelSignature(inputs=Schema([ColSpec("string", "prompt")]), outputs=Schema([ColSpec("string")]))
example = {"prompt": "<|system|>You are a stand-up comedian.<|end|><|user|>Tell me a joke about atom<|end|><|assistant|>"}

mlflow.set_tracking_uri("sqlite:///mlflow.db")  # a file in this folder; any MLflow server will do
with mlflow.start_run():
    logged = mlflow.pyfunc.log_model(
        name="phi3-mini-onnx",
        python_model=wrapper,
        artifacts={"phi3-mini-onnx": str(folder)},  # the key that Pilothouse looks for
        model_config={"max_length": 300, "temperature": 0.2},  # defaults; a request may replace them
        signature=signature,
        input_example=example,
        pip_requirements=["mlflow", "onnxruntime-genai"],
        registered_model_name="phi3-onnx",
    )

# MLflow itself runs it ...
model = mlflow.pyfunc.load_model(logged.model_uri)
print(model.predict(example)[0])

# ... and so does its command line:
#   mlflow models predict -m models:/phi3-onnx/1 -i request.json --env-manager local
#   mlflow models serve   -m models:/phi3-onnx/1 --env-manager local
# Pilothouse serves the same model with batching and streaming, over V2 REST and gRPC, OpenAI's API and /invocations:
print(f"pilothouse serve models:/phi3-onnx/{logged.registered_model_version}")
