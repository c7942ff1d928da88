"""Triton's clients against a host: `python with_triton.py HTTP GRPC MODEL STEPS` prints, as JSON, what they got."""

import faulthandler
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as tgrpc
import tritonclient.http as thttp
from tritonclient.utils import InferenceServerException

PATIENCE, ALL = 20.0, 80.0  # seconds that a call has, and that everything has: then it says where it stands, and ends


def inputs(kind: Any, **options: Any) -> list[Any]:
    tensor = kind.InferInput("prompt", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([b"hello"], dtype=np.object_), **options)
    return [tensor]


def told(call: Callable[[], Any]) -> str:
    """OK; the status and whether a sentence came with it; or how the client itself failed."""
    try:
        call()
    except InferenceServerException as error:
        if "while decoding the response" in error.message():
            return "the client can't read the error"
        return f"{error.status()}: {'a sentence' if ' ' in error.message() else error.message()}"
    except OSError as error:  # no connection, or no answer within PATIENCE
        return f"{type(error).__name__}: {error}"
    return "OK"


def http(address: str, model: str, most: dict[str, int]) -> dict[str, str]:
    """Each call with a client of its own: stock ends some connections."""
    json_out = [thttp.InferRequestedOutput("output", binary_data=False)]

    def infer(binary: bool = False, **options: Any) -> Callable[[Any], Any]:
        wanted = {} if binary else {"outputs": json_out}
        return lambda c: c.infer(model, inputs(thttp, binary_data=binary), parameters=most, **wanted, **options).as_numpy("output")

    def standing(c: Any) -> None:
        if not (c.is_server_live() and c.is_server_ready() and c.is_model_ready(model)):
            raise InferenceServerException("not ready")
        c.get_model_metadata(model)

    tried: dict[str, Callable[[Any], Any]] = {
        "infer, binary (the default)": infer(binary=True),
        "infer, deflate": infer(request_compression_algorithm="deflate"),
        "infer, JSON": infer(),
        "infer, JSON, gzip": infer(request_compression_algorithm="gzip"),
        "live, ready, metadata": standing,
        "model repository index": lambda c: c.get_model_repository_index(),
        "model config": lambda c: c.get_model_config(model),
        "statistics": lambda c: c.get_inference_statistics(),
    }
    found = {}
    for name, call in tried.items():
        client = thttp.InferenceServerClient(address, connection_timeout=PATIENCE, network_timeout=PATIENCE)
        try:
            found[name] = told(lambda call=call, client=client: call(client))  # type: ignore[misc]
        finally:
            client.close()
    return found


def grpc(address: str, model: str, steps: int) -> tuple[str, str]:
    """Unary, and a stream of `steps` tokens: to its end, for on a busy machine a message may hold more than one."""
    client = tgrpc.InferenceServerClient(address)
    most = {"max_tokens": steps, "ignore_eos": True}
    got: list[tuple[Any, Any]] = []
    try:
        unary = told(lambda: client.infer(model, inputs(tgrpc), parameters=most, client_timeout=PATIENCE).as_numpy("output"))
        client.start_stream(callback=lambda result, error: got.append((result, error)), stream_timeout=PATIENCE)
        client.async_stream_infer(model, inputs(tgrpc), parameters=most)
        client.stop_stream()
    finally:
        client.close()
    errors = [error.message() for _, error in got if error is not None]
    if errors:
        return unary, f"{len(errors)} errors: {', '.join(sorted(set(errors)))}"
    return unary, f"{sum(counted(result.get_response().parameters) for result, _ in got)} tokens"


def counted(parameters: Any) -> int:
    """The tokens that a message counts."""
    return int(parameters["completion_tokens"].int64_param) if "completion_tokens" in parameters else 0


def main(http_address: str, grpc_address: str, model: str, steps: int) -> None:
    faulthandler.dump_traceback_later(ALL, exit=True)
    said = http(http_address, model, {"max_tokens": steps, "ignore_eos": True})
    said["gRPC infer"], stream = grpc(grpc_address, model, steps)
    print(json.dumps({"http": said, "stream": stream}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
