"""Triton's clients, in a process of their own: their messages can't be registered beside MLServer's. Prints what they got as JSON.

python triton.py HTTP_ADDRESS GRPC_ADDRESS MODEL PROMPT
"""

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException


def inputs(kind: Any, prompt: str, **options: Any) -> list[Any]:
    tensor = kind.InferInput("prompt", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_), **options)
    return [tensor]


def http(address: str, model: str, prompt: str) -> dict[str, Any]:
    client = thttp.InferenceServerClient(address)
    told: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(model),
        "name": client.get_model_metadata(model)["name"],
    }
    for way, options in {"binary": {}, "json": {"binary_data": False}}.items():
        for squeeze in (None, "gzip", "deflate"):
            answer = client.infer(
                model,
                inputs(thttp, prompt, **options),
                request_id="7",
                parameters={"temperature": 0.0},
                request_compression_algorithm=squeeze,
                outputs=[thttp.InferRequestedOutput("output", binary_data=way == "binary")],
            )
            value = answer.as_numpy("output")[0]
            told[f"{way} {squeeze}"] = value.decode() if isinstance(value, bytes) else value
            told["id"] = answer.get_response()["id"]
    try:
        client.infer("no-such-model", inputs(thttp, prompt))
    except InferenceServerException as error:
        told["error"] = error.message()
    client.close()
    return told


def grpc(address: str, model: str, prompt: str) -> dict[str, Any]:
    client = tgrpc.InferenceServerClient(address)
    told: dict[str, Any] = {"live": client.is_server_live(), "ready": client.is_server_ready(), "model ready": client.is_model_ready(model)}
    told["unary"] = client.infer(model, inputs(tgrpc, prompt), parameters={"temperature": 0.0}).as_numpy("output")[0].decode()
    pieces: queue.Queue[Any] = queue.Queue()
    client.start_stream(callback=lambda result, error: pieces.put((result, error)))
    client.async_stream_infer(model, inputs(tgrpc, prompt), enable_empty_final_response=True, parameters={"temperature": 0.0})
    deltas, final = [], False
    while not final:
        result, error = pieces.get(timeout=60)
        if error is not None:
            told["stream error"] = str(error)
            break
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        if (value := result.as_numpy("output")) is not None and value.size:
            deltas.append(value[0].decode())
    client.stop_stream()
    told["stream"] = "".join(deltas)
    told["pieces"] = len(deltas)
    try:
        client.infer("no-such-model", inputs(tgrpc, prompt))
    except InferenceServerException as error:
        told["error"] = error.status()
    client.close()
    return told


if __name__ == "__main__":
    http_address, grpc_address, model, prompt = sys.argv[1:]
    json.dump({"http": http(http_address, model, prompt), "grpc": grpc(grpc_address, model, prompt)}, sys.stdout)
