"""Phi-3 as a Transformers chat model with MLflow, step by step: build the pipeline, log it, register it, load it, talk to it.

Run it as it is for the small model in the wheel, or give it a Hugging Face folder (config.json, *.safetensors, tokenizer):

    python examples/transformers_chat.py [FOLDER]

`pilothouse package chat FOLDER --register phi3-chat` does the same in one line, with a manifest of the files' digests on top.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folder; without this, each look at a hub that doesn't answer stalls

import mlflow  # after the switch, which is read on import
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from pilothouse.models import pocket_chat

folder = Path(sys.argv[1]) if len(sys.argv) > 1 else pocket_chat.make(Path("pocket-chat"))

phi3 = pipeline("text-generation", model=AutoModelForCausalLM.from_pretrained(folder), tokenizer=AutoTokenizer.from_pretrained(folder))

mlflow.set_tracking_uri("sqlite:///mlflow.db")  # a file in this folder; any MLflow server will do
question = {"messages": [{"role": "user", "content": "What is the capital of Spain?"}]}
with mlflow.start_run():
    logged = mlflow.transformers.log_model(
        phi3,
        name="phi3-mlflow-model",
        task="llm/v1/chat",  # MLflow sets the chat signature, and applies the model's chat template
        model_config={"max_tokens": 256, "temperature": 0.2},  # defaults; a request may replace them
        input_example=question,
        pip_requirements=["mlflow", "transformers", "torch"],  # named, so that MLflow need not guess
        registered_model_name="phi3-chat",
    )

# MLflow itself runs it: offline, a list with one answer for each request.
model = mlflow.pyfunc.load_model(logged.model_uri)
response = model.predict({**question, "temperature": 0.2, "max_tokens": 200})
print(response[0]["choices"][0]["message"]["content"])

# Pilothouse serves the same model with batching and streaming, over OpenAI's API, V2 REST and gRPC, and /invocations:
print(f"pilothouse serve models:/phi3-chat/{logged.registered_model_version}")
