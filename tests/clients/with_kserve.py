"""KServe's REST and gRPC clients, in an environment of their own. Prints what they got as JSON; they have no streams.

python with_kserve.py REST GRPC MODEL PROMPT
"""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

logging.disable(logging.CRITICAL)


def request(model: str, prompt: str, *, binary: bool) -> InferRequest:
    tensor = InferInput("prompt", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([prompt.encode()], dtype=np.object_), binary_data=binary)
    parameters = {"temperature": 0, "max_tokens": 200}
    return InferRequest(model, [tensor], request_id="kserve-1", parameters=parameters)


def text(response: Any) -> str:
    value = response.outputs[0].as_numpy().ravel()[0]
    return value.decode() if isinstance(value, bytes) else str(value)


async def rest(url: str, model: str, prompt: str) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    told: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, model),
    }
    for way in ("json", "binary"):
        answer = await client.infer(url, request(model, prompt, binary=way == "binary"), model_name=model)
        told |= {way: text(answer), "id": answer.id}
    try:
        await client.infer(url, request("no-such-model", prompt, binary=False), model_name="no-such-model")
    except httpx.HTTPStatusError as error:
        told["error"] = [error.response.status_code, str(error).split(",")[0]]
    await client.close()
    return told


async def over_grpc(address: str, model: str, prompt: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address, retries=0) as client:
        told: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready(model),
        }
        for way in ("json", "binary"):
            answer = await client.infer(request(model, prompt, binary=way == "binary"))
            told |= {way: text(answer), "id": answer.id}
        try:
            await client.infer(request("no-such-model", prompt, binary=False))
        except grpc.RpcError as error:
            told["error"] = [error.code().name, error.details().split(",")[0]]
        return told


async def main(url: str, address: str, model: str, prompt: str) -> dict[str, Any]:
    return {"rest": await rest(url, model, prompt), "grpc": await over_grpc(address, model, prompt)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
