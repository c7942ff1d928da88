"""The Transformers side of packaging: a Hugging Face folder as the pipeline that `mlflow.transformers.log_model` takes.

Only classes that transformers brings itself are loaded, from safetensors, with the network off. The one room but the engine that imports
torch and transformers, and only when it is called.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilothouse.errors import ModelError
from pilothouse.models import pretrained, reading

TASK = "llm/v1/chat"
DEFAULTS: Mapping[str, Any] = {"max_tokens": 256, "temperature": 0.2}


def pipeline(folder: Path) -> Any:
    """The text-generation pipeline of a Hugging Face folder, on the CPU, in the folder's own number format.

    A folder whose config names Python of its own (`auto_map`) is loaded with transformers' classes instead, and the saved copy no longer
    names it. Raises `ModelError` for what `pretrained.check` refuses, or when the folder doesn't load.
    """
    pretrained.check(folder, ignore_own_code=True)
    offline()
    try:
        import transformers
    except ImportError:
        raise ModelError(
            "transformers and torch are not installed, and a chat model needs them; pip install 'pilothouse[mlflow,transformers]'"
        ) from None
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if hasattr(config, "auto_map"):
            del config.auto_map
        model = getattr(transformers, config.architectures[0]).from_pretrained(
            folder, config=config, trust_remote_code=False, local_files_only=True, use_safetensors=True, dtype="auto"
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers, tokenizers and safetensors each have their own
        raise ModelError(
            f"{folder} does not load as {pretrained.architecture(folder)} ({type(error).__name__}); save it with save_pretrained"
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(f"{folder} has no chat template, and a chat model needs one; add chat_template.jinja")
    _accept_chat_fields(model.generation_config)
    return transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)


def model_config(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """`given` over the defaults, in the words that MLflow's pipeline takes: temperature 0 becomes do_sample false, which means greedy there."""
    config = {**DEFAULTS, **(given or {})}
    reading.defaults(config)
    if config.get("temperature") == 0:
        del config["temperature"]
        config["do_sample"] = False
    return config


def answers(pipe: Any, messages: list[dict[str, str]]) -> bool:
    """The pipeline completes `messages`, by one token: the model is whole."""
    prompt = pipe.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return bool(pipe(prompt, max_new_tokens=1, do_sample=False, return_full_text=False))


def offline() -> None:
    """No hub is asked: where none answers, every question to it stalls for most of a minute."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if (constants := sys.modules.get("huggingface_hub.constants")) is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]  # read from the environment once, at import


def _accept_chat_fields(generation: Any) -> None:
    """MLflow hands every field of the chat signature to `generate`, which refuses those it doesn't know, `n: 1` and `stream: false` among them.

    Known to the generation config they pass; MLflow's own predict gives one whole answer whatever they say.
    """
    generation._from_model_config = False  # else it is made anew from the model's config when it is loaded
    generation.n = 1
    generation.stream = False
