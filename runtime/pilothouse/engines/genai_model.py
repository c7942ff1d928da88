"""A folder of onnxruntime-genai's model builder, read and loaded on the device that was promised. The one door to the library.

What a folder is built for stands in its genai_config.json. A build for CUDA that would quietly answer from the CPU is refused here.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pilothouse.engines.refusals import GraphRefused
from pilothouse.errors import ModelError

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What genai_config.json says. `provider` is what the graph was built for; `batching` its PagedAttention section, None without one."""

    type: str
    context: int
    vocabulary: int
    layers: int
    kv_heads: int
    head_size: int
    provider: str
    graphs: bool  # CUDA graphs are captured
    batching: dict[str, Any] | None

    def token_bytes(self, number: int) -> int:
        """Bytes of one token's keys and values, whose numbers have `number` bytes."""
        return self.layers * self.kv_heads * self.head_size * 2 * number


def read(folder: Path) -> Facts:
    """Read the folder's genai_config.json. Raises `ModelError` for a folder that is no export of the builder's."""
    file = folder / "genai_config.json"
    try:
        config = json.loads(file.read_text("utf-8"))
        model = config["model"]
        decoder = model["decoder"]
        graph = folder / decoder["filename"]
        providers = {
            name.lower(): options
            for entry in decoder.get("session_options", {}).get("provider_options", [])
            for name, options in entry.items()
        }
        facts = Facts(
            type=str(model["type"]),
            context=int(model["context_length"]),
            vocabulary=int(model["vocab_size"]),
            layers=int(decoder["num_hidden_layers"]),
            kv_heads=int(decoder["num_key_value_heads"]),
            head_size=int(decoder["head_size"]),
            provider=next(iter(providers), "cpu"),
            graphs=str(providers.get("cuda", {}).get("enable_cuda_graph", "0")) == "1",
            batching=config.get("engine", {}).get("dynamic_batching"),
        )
    except OSError:
        raise ModelError(
            f"there is no genai_config.json in {folder}: give the folder that onnxruntime-genai's model builder wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} does not describe a model of onnxruntime-genai's builder ({error!r}): export it again") from None
    if not graph.is_file():
        raise ModelError(f"{file} names {graph.name}, and the folder has no such file: fetch the model again, whole")
    return facts


def library() -> Any:
    """onnxruntime-genai, its telemetry off."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default, and read when the library loads
    import onnxruntime_genai

    return onnxruntime_genai


def load(folder: Path, facts: Facts, *, device: Device, threads: int, overlay: dict[str, Any] | None = None) -> Any:
    """The library's model of `folder`, with `overlay` over its configuration, on the promised device.

    Raises `ModelError` when that device does not answer, and `GraphRefused` where another engine may take the model.
    """
    refuse(folder, facts.provider, device)
    og = library()
    try:
        config = og.Config(str(folder))
        if device == "cpu":
            config.clear_providers()
        config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
        if overlay:
            config.overlay(json.dumps(overlay))
        model = og.Model(config)
    except (RuntimeError, TypeError, ValueError) as error:
        if facts.provider == "cuda" and device != "cpu":
            raise _no_gpu(device, error) from error
        raise ModelError(f"onnxruntime-genai can't load the model in {folder}; export it with its model builder again: {error}") from error
    found = str(model.device_type).lower()
    if device == "cuda" and not found.startswith("cuda"):
        raise _no_gpu(device, f"the model was loaded on {found}")
    return model


def refuse(folder: Path, provider: str, device: Device) -> None:
    """Raise `ModelError` where a build for `provider` can't keep the promise of a GPU."""
    if device == "cuda" and provider != "cuda":
        raise ModelError(
            f"no GPU answered: device is cuda and the model in {folder} is a build for {provider}; "
            "export it for CUDA (model builder, -e cuda), or set device to cpu"
        )


def _no_gpu(device: Device, reason: object) -> ModelError:
    said = " ".join(str(reason).split()).partition(": /")[0][:200]  # without a path: clients may read why an engine was not chosen
    if device == "cuda":
        return ModelError(f"no GPU answered: device is cuda, and the model would run on the cpu or not at all; give the pod a GPU ({said})")
    return GraphRefused("genai", f"it is a build for CUDA and no GPU answered ({said})")
