"""The Open Inference Protocol over REST: metadata, tensors in every form, Triton's bodies, streams and refusals."""

import json
import struct
from typing import Any

import pytest

from pilothouse.smoke.checks import Target
from pilothouse.smoke.client import Reply

SHORT = {"max_tokens": 6, "temperature": 0}
CHAT = [{"role": "user", "content": "Hello"}]


def prompt(*data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """The prompt tensor."""
    return {"name": "prompt", "shape": [len(data)] if shape is None else shape, "datatype": "BYTES", "data": list(data), **more}


def infer(target: Target, body: Any, path: str = "infer") -> Reply:
    return target.client.post(f"/v2/models/{target.model}/{path}", body)


def texts(target: Target, body: Any, path: str = "infer") -> list[str]:
    """The output tensor of a 200."""
    reply = infer(target, body, path)
    assert reply.status == 200, reply.body
    return list(reply.json["outputs"][0]["data"])


def test_server_metadata(target: Target) -> None:
    """Name, version and the extensions that are spoken."""
    told = target.client.get("/v2").json

    assert set(told) == {"name", "version", "extensions"}
    assert told["name"] == "pilothouse"
    assert told["version"] == target.client.get("/version").body.decode().strip()
    assert told["extensions"] == ["binary_tensor_data", "generate", "streaming"]


def test_model_metadata_is_what_works(target: Target) -> None:
    """Real tensor names, datatypes, shapes and versions, the same under the version's path."""
    told = target.client.get(f"/v2/models/{target.model}").json
    (version,) = told["versions"]

    assert told["name"] == target.model
    assert told["platform"].startswith("mlflow_")
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["inputs"]] == [("prompt", "BYTES", [-1]), ("messages", "BYTES", [1])]
    assert [(t["name"], t["datatype"], t["shape"]) for t in told["outputs"]] == [("output", "BYTES", [-1])]
    assert target.client.get(f"/v2/models/{target.model}/versions/{version}").json == told


def test_version_is_part_of_every_path(target: Target) -> None:
    """The served version answers as no version does; another one is 404, and says so."""
    (version,) = target.client.get(f"/v2/models/{target.model}").json["versions"]
    body = {"inputs": [prompt("Hello")], "parameters": SHORT}

    right, wrong = f"versions/{version}", "versions/no-such-version"
    assert texts(target, body, f"{right}/infer") == texts(target, body)
    assert infer(target, body, f"{right}/infer").json["model_version"] == version
    assert target.client.get(f"/v2/models/{target.model}/{right}/ready").json == {"name": target.model, "ready": True}
    for path in ("infer", "generate", "infer_stream", "generate_stream"):
        reply = infer(target, body, f"{wrong}/{path}")
        assert (reply.status, "no-such-version" in reply.json["error"]) == (404, True)
    for path in ("", "/ready"):
        assert target.client.get(f"/v2/models/{target.model}/{wrong}{path}").status == 404


def test_health_says_what_it_is(target: Target) -> None:
    """Live, ready and model ready are words that clients parse."""
    assert target.client.get("/v2/health/live").json == {"live": True}
    assert target.client.get("/v2/health/ready").json == {"ready": True}
    assert target.client.get(f"/v2/models/{target.model}/ready").json == {"name": target.model, "ready": True}


def test_every_row_is_answered_in_order(target: Target) -> None:
    """Rows are computed side by side; each gets what it gets alone, and counts are of all together."""
    rows = ["Hello", "The capital of Spain is", "Tell me"]
    alone = [infer(target, {"inputs": [prompt(row)], "parameters": SHORT}).json for row in rows]

    told = infer(target, {"inputs": [prompt(*rows)], "parameters": SHORT}).json

    assert told["outputs"][0]["shape"] == [3]
    assert told["outputs"][0]["data"] == [one["outputs"][0]["data"][0] for one in alone]
    assert told["parameters"]["finish_reason"] == ",".join(one["parameters"]["finish_reason"] for one in alone)
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert told["parameters"][name] == sum(one["parameters"][name] for one in alone)


@pytest.mark.parametrize(
    "tensor",
    [
        prompt("Hello", shape=[1, 1]),
        prompt(["Hello"], shape=[1, 1]),
        prompt("Hello", parameters={"content_type": "str"}),
        prompt('"Hello"', parameters={"content_type": "pd_json"}),
    ],
    ids=["column", "nested", "str", "pd_json"],
)
def test_forms_of_a_prompt_tensor(target: Target, tensor: dict[str, Any]) -> None:
    """[n] and [n, 1], flat and nested, as text and as pandas' JSON, are one prompt."""
    plain = texts(target, {"inputs": [prompt("Hello")], "parameters": SHORT})

    assert texts(target, {"inputs": [tensor], "parameters": SHORT}) == plain


@pytest.mark.parametrize("content_type", [None, "str", "pd", "pd_json"])
def test_content_type_of_the_request(target: Target, content_type: str | None) -> None:
    """MLServer's clients may send it for the whole request."""
    tensor = {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [json.dumps(CHAT)]}
    plain = texts(target, {"inputs": [tensor], "parameters": SHORT})
    parameters = SHORT | ({"content_type": content_type} if content_type else {})

    assert texts(target, {"inputs": [tensor], "parameters": parameters}) == plain


def binary(target: Target, body: dict[str, Any], raw: bytes, path: str = "infer") -> Reply:
    """A request with its tensors' bytes behind the JSON, as Triton's client sends it."""
    head = json.dumps(body).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    return target.client.post(f"/v2/models/{target.model}/{path}", head + raw, headers)


def test_binary_tensors_go_in_and_out(target: Target) -> None:
    """The prompt as bytes behind the JSON; the answer as bytes where it is asked for, as JSON where it is not."""
    data = struct.pack("<I", 5) + b"Hello"
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    plain = texts(target, {"inputs": [prompt("Hello")], "parameters": SHORT})

    as_json = binary(target, {"inputs": [tensor], "parameters": SHORT}, data)
    as_bytes = binary(target, {"inputs": [tensor], "parameters": SHORT | {"binary_data_output": True}}, data)
    of_output = {"inputs": [tensor], "parameters": SHORT, "outputs": [{"name": "output", "parameters": {"binary_data": True}}]}
    chosen = binary(target, of_output, data)

    assert as_json.json["outputs"][0]["data"] == plain
    for reply in (as_bytes, chosen):
        assert reply.headers["content-type"] == "application/octet-stream"
        length = int(reply.headers["inference-header-content-length"])
        head, tail = json.loads(reply.body[:length]), reply.body[length:]
        assert head["outputs"][0]["parameters"]["binary_data_size"] == len(tail)
        assert tail == struct.pack("<I", len(plain[0].encode())) + plain[0].encode()


@pytest.mark.parametrize(
    ("size", "raw"),
    [(9, b""), (9, struct.pack("<I", 5) + b"Hell"), (9, struct.pack("<I", 6) + b"Hello"), (4, struct.pack("<I", 0) + b"Hello"), (-1, b"")],
    ids=["missing", "short", "lies about the text", "more than it says", "negative"],
)
def test_broken_binary_is_400(target: Target, size: int, raw: bytes) -> None:
    """Lengths that lie are refused, by name."""
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}

    reply = binary(target, {"inputs": [tensor]}, raw)

    assert reply.status == 400, reply.body
    assert set(reply.json) == {"error"}


@pytest.mark.parametrize("header", ["-1", "x", "99999", "5", ""])
def test_wrong_header_length_is_400(target: Target, header: str) -> None:
    """Inference-Header-Content-Length that is no length of this body."""
    path = f"/v2/models/{target.model}/infer"

    reply = target.client.post(path, json.dumps({"inputs": [prompt("Hi")]}).encode(), {"Inference-Header-Content-Length": header})

    assert reply.status == 400, reply.body
    assert set(reply.json) == {"error"}


@pytest.mark.parametrize("path", ["infer", "generate"])
def test_id_comes_back(target: Target, path: str) -> None:
    """The body's id is echoed; without one the request's own stands there."""
    body = {"inputs": [prompt("Hello")], "parameters": SHORT}

    assert infer(target, {"id": "a b/ü", **body}, path).json["id"] == "a b/ü"
    reply = infer(target, body, path)
    assert reply.json["id"] == reply.headers["x-request-id"]


def test_generate_body_is_tritons(target: Target) -> None:
    """`text_input` in, `text_output` out, with the counts and the id beside it."""
    told = infer(target, {"id": "7", "text_input": "Hello", "parameters": SHORT}, "generate").json

    assert told["text_output"] == texts(target, {"inputs": [prompt("Hello")], "parameters": SHORT})[0]
    assert (told["id"], told["model_name"]) == ("7", target.model)
    assert {"finish_reason", "prompt_tokens", "completion_tokens", "total_tokens"} <= set(told)


@pytest.mark.parametrize("path", ["infer_stream", "generate_stream"])
def test_stream_joins_to_the_answer(target: Target, path: str) -> None:
    """Every message is a whole response of its own form, with the id; the last one has reason and counts, and only it."""
    whole = texts(target, {"inputs": [prompt("Hello")], "parameters": SHORT})[0]
    body = {"id": "7", "inputs": [prompt("Hello")]} if path == "infer_stream" else {"id": "7", "text_input": "Hello"}

    events = [e.json for e in target.client.events(f"/v2/models/{target.model}/{path}", body | {"parameters": SHORT})]

    if path == "infer_stream":
        assert all(e["outputs"][0]["shape"] == [1] and e["outputs"][0]["name"] == "output" for e in events)
        assert "".join(e["outputs"][0]["data"][0] for e in events) == whole
        endings = [e["parameters"]["finish_reason"] for e in events if "finish_reason" in e.get("parameters", {})]
    else:
        assert "".join(e["text_output"] for e in events) == whole
        endings = [e["finish_reason"] for e in events if "finish_reason" in e]
    assert {e["id"] for e in events} == {"7"}
    assert len(endings) == 1


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [prompt("a"), prompt("b")]}, "prompt"),
        ({"inputs": [prompt("a"), {"name": "messages", "shape": [1], "datatype": "BYTES", "data": [json.dumps(CHAT)]}]}, "messages"),
        ({"inputs": [prompt("a", name="text")]}, "text"),
        ({"inputs": [prompt("a", name="temperature")]}, "parameters"),
        ({"inputs": [prompt("a", datatype="FP32")]}, "datatype"),
        ({"inputs": [prompt("a", datatype="STRING")]}, "datatype"),
        ({"inputs": [prompt(7)]}, "data"),
        ({"inputs": [prompt("a", shape=[2])]}, "shape"),
        ({"inputs": [prompt("a", shape=[1, 1, 1])]}, "shape"),
        ({"inputs": [prompt("a", shape=[-1])]}, "shape"),
        ({"inputs": [prompt("a", shape=[])]}, "shape"),
        ({"inputs": [prompt(shape=[0])]}, "shape"),
        ({"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES"}]}, "data"),
        ({"inputs": [{"name": "prompt", "datatype": "BYTES", "data": ["a"]}]}, "shape"),
        ({"inputs": [{"shape": [1], "datatype": "BYTES", "data": ["a"]}]}, "name"),
        ({"inputs": [prompt(*["a"] * 65)]}, "rows"),
        ({"inputs": [{"name": "messages", "shape": [1], "datatype": "BYTES", "data": ["Hello"]}]}, "messages"),
        ({"inputs": [{"name": "messages", "shape": [2], "datatype": "BYTES", "data": [json.dumps(CHAT)] * 2}]}, "messages"),
        ({"inputs": [prompt("a")], "outputs": [{"name": "logits"}]}, "logits"),
        ({"inputs": [prompt("a")], "parameters": {"content_type": "np"}}, "content_type"),
        ({"inputs": [prompt("a", parameters={"content_type": "np"})]}, "content_type"),
        ({"inputs": [prompt("a")], "parameters": {"tools": []}, "colour": "red"}, "colour"),
        ({"inputs": [prompt("a")], "parameters": {"logprobs": 1}}, "logprobs"),
        ({"inputs": [prompt("a")], "parameters": {"sequence_id": 1}}, "sequence_id"),
        ({"inputs": [prompt("a")], "parameters": []}, "parameters"),
        ({"inputs": [prompt("a")], "text_input": "a"}, "text_input"),
        ({"text_input": "a", "parameters": {"n": 2}}, "parameters.n"),
    ],
)
def test_wrong_request_is_400_and_names_what_is_wrong(target: Target, body: dict[str, Any], named: str) -> None:
    """Missing, doubled and unknown tensors, wrong datatypes, shapes, content types and options: one string that names it."""
    reply = infer(target, body)

    assert reply.status == 400, reply.body
    assert set(reply.json) == {"error"}
    assert named in reply.json["error"]


@pytest.mark.parametrize("path", ["infer_stream", "generate_stream"])
def test_stream_is_of_one_prompt(target: Target, path: str) -> None:
    """Two rows in a stream are refused before it begins."""
    reply = infer(target, {"inputs": [prompt("a", "b")]}, path)

    assert reply.status == 400
    assert "2" in reply.json["error"]
