"""MLServer's own gRPC stub, in a process of its own: its messages can't be registered beside Triton's. Prints what it got as JSON.

python with_mlserver.py GRPC MODEL PROMPT
"""

import json
import sys
from typing import Any

import grpc
from mlserver.codecs import StringCodec
from mlserver.grpc import dataplane_pb2_grpc
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.types import InferenceRequest, Parameters

STREAM = [("pilothouse-stream", "mlserver")]
"""What docs/protocols.md tells users of MLServer's stub to send: the stream then answers MLServer's own message."""


def main(address: str, model: str, prompt: str) -> dict[str, Any]:
    asked = InferenceRequest(
        id="mlserver-1",
        inputs=[StringCodec.encode_input("prompt", [prompt], use_bytes=True)],
        parameters=Parameters(temperature=0, max_tokens=200),
    )
    message = ModelInferRequestConverter.from_types(asked, model_name=model)
    with grpc.insecure_channel(address) as channel:
        stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = ModelInferResponseConverter.to_types(stub.ModelInfer(message, timeout=60))
        told: dict[str, Any] = {"unary": StringCodec.decode_output(answer.outputs[0])[0], "id": answer.id}
        pieces = [
            ModelInferResponseConverter.to_types(piece) for piece in stub.ModelStreamInfer(iter([message]), metadata=STREAM, timeout=60)
        ]
        told["stream"] = "".join(StringCodec.decode_output(piece.outputs[0])[0] for piece in pieces)
        told["pieces"] = len(pieces)
        told["finish_reason"] = [getattr(p.parameters, "finish_reason", None) for p in pieces if p.parameters and p.parameters.model_extra][
            -1
        ]
        message.model_name = "no-such-model"
        for way, call in (
            ("error", lambda: stub.ModelInfer(message, timeout=60)),
            ("stream error", lambda: list(stub.ModelStreamInfer(iter([message]), metadata=STREAM))),
        ):
            try:
                call()
            except grpc.RpcError as error:
                told[way] = error.code().name
    return told


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
