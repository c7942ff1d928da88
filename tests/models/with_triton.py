"""Triton's clients before generic models, in a process of their own: their messages can't be registered beside MLServer's. Prints JSON.

python with_triton.py HTTP_ADDRESS GRPC_ADDRESS MODEL, and on standard input {tensor: [datatype, shape, data]}
"""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

Tensors = dict[str, tuple[str, list[int], list[Any]]]


def inputs(kind: Any, tensors: Tensors, **options: Any) -> list[Any]:
    made = []
    for name, (datatype, shape, data) in tensors.items():
        values = np.array([v.encode() for v in data] if datatype == "BYTES" else data, dtype=triton_to_np_dtype(datatype))
        tensor = kind.InferInput(name, shape, datatype)
        tensor.set_data_from_numpy(values.reshape(shape), **options)
        made.append(tensor)
    return made


def told(answer: Any, name: str) -> dict[str, Any]:
    values = answer.as_numpy(name)
    return {"dtype": str(values.dtype), "shape": list(values.shape), "data": values.ravel().tolist()}


def main(http_address: str, grpc_address: str, model: str, tensors: Tensors) -> dict[str, Any]:
    over_http, over_grpc = thttp.InferenceServerClient(http_address), tgrpc.InferenceServerClient(grpc_address)
    metadata = over_http.get_model_metadata(model)
    output = metadata["outputs"][0]["name"]
    found = {
        "inputs": metadata["inputs"],
        "grpc inputs": [(i.name, i.datatype, list(i.shape)) for i in over_grpc.get_model_metadata(model).inputs],
    }
    found["http, binary"] = told(over_http.infer(model, inputs(thttp, tensors)), output)
    plain = [thttp.InferRequestedOutput(output, binary_data=False)]
    found["http, json"] = told(over_http.infer(model, inputs(thttp, tensors, binary_data=False), outputs=plain), output)
    found["grpc"] = told(over_grpc.infer(model, inputs(tgrpc, tensors)), output)
    first = next(iter(tensors))
    for name, client, kind in (("http refused", over_http, thttp), ("grpc refused", over_grpc, tgrpc)):
        try:
            client.infer(model, inputs(kind, {first: ("BYTES", [1], ["x"])}))
        except InferenceServerException as error:
            found[name] = [error.status(), error.message()]
    over_http.close()
    over_grpc.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:4], json.load(sys.stdin))))
