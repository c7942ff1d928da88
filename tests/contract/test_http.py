"""What holds for every route: methods, paths, bodies, headers and the shape of each protocol's errors."""

import gzip
import json
import zlib
from typing import Any

import pytest

from pilothouse.smoke.checks import Target
from pilothouse.smoke.client import Reply

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
TENSOR = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hello"]}
INFER = {"inputs": [TENSOR], "parameters": {"max_tokens": 2}}

POSTS: dict[str, Any] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "Hello", "max_tokens": 2},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 2},
    "/v2/models/{model}/infer": INFER,
    "/v2/models/{model}/infer_stream": INFER,
    "/v2/models/{model}/generate": {"text_input": "Hello", "parameters": {"max_tokens": 2}},
    "/v2/models/{model}/generate_stream": {"text_input": "Hello", "parameters": {"max_tokens": 2}},
    "/invocations": CHAT,
}
GETS = (
    "/v2",
    "/v2/",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}",
    "/v2/models/{model}/ready",
    "/v1/models",
    "/v1/models/{model}",
    "/ping",
    "/health",
    "/version",
    "/openapi.json",
)
UNKNOWN = (
    "/v1/",
    "/v1/chat",
    "/v1/chat/completions/",
    "/v1/no-such-route",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
    "/v1/responses/resp_1/input_items",
    "/v2/no-such-route",
    "/v2/models",
    "/v2/models/",
    "/v2/models/{model}/explain",
    "/v2/models/{model}/versions",
    "/v2/repository/index",
    "/invocations/",
    "/docs",
    "/redoc",
    "/metrics",
    "/v2/docs",
    "/%2e%2e/etc/passwd",
)


def shaped(path: str, reply: Reply) -> bool:
    """Whether a refusal has the shape of its path's protocol, and nothing else in it."""
    body = reply.json
    if reply.headers.get("content-type") != "application/json" or not isinstance(body, dict):
        return False
    if path.startswith("/v1"):
        return set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"} and bool(body["error"]["message"])
    if path == "/invocations":
        return set(body) == {"error_code", "message"} and bool(body["message"])
    return set(body) == {"error"} and isinstance(body["error"], str) and bool(body["error"])


@pytest.mark.parametrize("path", GETS)
def test_get_routes_answer_get_and_head(target: Target, path: str) -> None:
    """HEAD has GET's status and headers, and no body."""
    path = path.format(model=target.model)
    got, headed = target.client.get(path), target.client.request("HEAD", path)

    assert got.status == headed.status == 200
    assert headed.body == b""
    assert headed.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_unknown_path_is_404(target: Target, path: str, method: str) -> None:
    """In the shape of the protocol whose path it looks like."""
    path = path.format(model=target.model)

    reply = target.client.request(method, path, {} if method == "POST" else None)

    assert reply.status == 404
    assert shaped(path, reply)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_wrong_method_on_a_post_route_is_405(target: Target, path: str, method: str) -> None:
    """It says which one is right."""
    path = path.format(model=target.model)

    reply = target.client.request(method, path)

    assert (reply.status, reply.headers.get("allow")) == (405, "POST")
    assert shaped(path, reply)


@pytest.mark.parametrize("path", GETS)
def test_wrong_method_on_a_get_route_is_405(target: Target, path: str) -> None:
    """It says which ones are right."""
    path = path.format(model=target.model)

    reply = target.client.post(path, {})

    assert (reply.status, reply.headers.get("allow")) == (405, "GET, HEAD")
    assert shaped(path, reply)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"messages": 7, "prompt": 7, "inputs": 7, "input": 7, "text_input": 7}',
        b"[" * 5000,
        b'{"a":' * 5000,
    ],
    ids=["empty", "half", "list", "null", "number", "string", "no fields", "no UTF-8", "NaN", "wrong types", "deep lists", "deep objects"],
)
def test_malformed_body_is_400(target: Target, path: str, body: bytes) -> None:
    """Never 422, never 500, in the protocol's own shape; a stream's too."""
    path = path.format(model=target.model)

    reply = target.client.post(path, body)

    assert reply.status == 400, reply.body
    assert shaped(path, reply), reply.body


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_body_is_read(target: Target, path: str, coding: str) -> None:
    """As if it were sent plain."""
    body = json.dumps(POSTS[path]).encode()
    squeezed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)

    reply = target.client.post(path.format(model=target.model), squeezed, {"Content-Encoding": coding})

    assert reply.status == 200, reply.body


@pytest.mark.parametrize("path", POSTS)
def test_compressed_bomb_is_413(target: Target, path: str) -> None:
    """The cap holds for what a body inflates to."""
    path = path.format(model=target.model)
    bomb = gzip.compress(b'{"a": "' + b"a" * (64 << 20) + b'"}')

    reply = target.client.post(path, bomb, {"Content-Encoding": "gzip"})

    assert reply.status == 413
    assert shaped(path, reply)


@pytest.mark.parametrize("path", POSTS)
def test_oversized_body_is_413(target: Target, path: str) -> None:
    """Over the default of 4 MiB."""
    path = path.format(model=target.model)

    reply = target.client.post(path, b" " * (4 << 20) + b"{}")

    assert reply.status == 413
    assert shaped(path, reply)


@pytest.mark.parametrize(("coding", "body"), [("br", b"{}"), ("gzip", b"{}"), ("gzip, gzip", b"{}")])
def test_unreadable_coding_is_refused(target: Target, coding: str, body: bytes) -> None:
    """Unknown codings are 415; bytes that are not what they say are 400."""
    reply = target.client.post("/v1/chat/completions", body, {"Content-Encoding": coding})

    assert reply.status in (400, 415)
    assert shaped("/v1/chat/completions", reply)


@pytest.mark.parametrize("path", [*POSTS, *GETS, *UNKNOWN])
def test_request_id_comes_back(target: Target, path: str) -> None:
    """The caller's X-Request-Id, on answers and refusals alike; a new one where there is none."""
    body = POSTS.get(path)
    path = path.format(model=target.model)

    named = target.client.request("POST" if body else "GET", path, body, {"X-Request-Id": "abc-123"})
    unnamed = target.client.request("POST" if body else "GET", path, body)

    assert named.headers["x-request-id"] == "abc-123"
    assert len(unnamed.headers["x-request-id"]) == 32


def test_unknown_model_comes_before_the_body(target: Target) -> None:
    """404 that names the model, whatever else is wrong."""
    for path in ("/v2/models/gpt-9/infer", "/v2/models/gpt-9/generate_stream", "/v2/models/gpt-9/versions/7/infer"):
        reply = target.client.post(path, b"{")
        assert (reply.status, "gpt-9" in reply.json["error"]) == (404, True)
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        reply = target.client.post(path, {"model": "gpt-9", "temperature": "hot"})
        assert (reply.status, reply.json["error"]["code"], reply.json["error"]["param"]) == (404, "model_not_found", "model")
        assert "gpt-9" in reply.json["error"]["message"]
