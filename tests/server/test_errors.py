"""Errors over REST: each caller's own shape, the table's status, and nothing of ours that is not theirs to know."""

import pytest

from pilothouse import errors
from server.running import running
from server.test_v2_rest import INFER, tensor
from server.toy import FAILURES

INTERNAL = "internal error; the reason is in the server's log"


@pytest.mark.parametrize("name", FAILURES)
async def test_a_models_error_has_the_status_of_the_table(name: str) -> None:
    """Every class of error gets its own status and, where a retry helps, Retry-After; foreign text stays inside."""
    async with running() as run:
        reply = await run.client.post(INFER, json=tensor(f"fail {name}"))

        error = FAILURES[name]
        assert reply.status_code == errors.wire(error).status
        assert reply.json() == {"error": INTERNAL if name == "foreign" else str(error)}
        assert ("retry-after" in reply.headers) == ("retry-after-ms" in reply.headers) == isinstance(error, errors.Retryable)


async def test_each_protocol_has_its_own_shape() -> None:
    """The same failure at three doors: OpenAI's object, MLflow's, and V2's."""
    async with running() as run:
        openai = await run.client.post("/v1/echo", content=b"fail context")
        mlflow = await run.client.post("/invocations", content=b"fail context")
        foreign = await run.client.post("/v1/echo", content=b"fail foreign")

        message = "the prompt is too long"
        fields = {"message": message, "type": "invalid_request_error", "param": "prompt", "code": "context_length_exceeded"}
        assert (openai.status_code, openai.json()) == (400, {"error": fields})
        assert (mlflow.status_code, mlflow.json()) == (400, {"error_code": "BAD_REQUEST", "message": message})
        broken = {"message": INTERNAL, "type": "server_error", "param": None, "code": "internal_error"}
        assert (foreign.status_code, foreign.json()) == (500, {"error": broken})


@pytest.mark.parametrize(
    "path", ["/v1/ghost", "/v2/ghost", "/v2/models/toy/ghost", "/ghost", "/v2/repository/index", "/docs", "/v2/docs", "/redoc"]
)
async def test_an_unknown_path_is_404(path: str) -> None:
    """Paths that are not served, MLServer's own documents and repository among them, are 404 in the shape of their prefix."""
    async with running() as run:
        reply = await run.client.post(path, json={})

        message = f"no such path: '{path}'"
        told = reply.json()["error"]
        assert (reply.status_code, told["message"] if path.startswith("/v1") else told) == (404, message)


@pytest.mark.parametrize(
    ("path", "meant"), [("/v2/health/raedy", "/v2/health/ready"), ("/health/ready", "/v2/health/ready"), ("/v22", "/v2")]
)
async def test_a_path_that_is_nearly_one_names_it(path: str, meant: str) -> None:
    """A slip, or a base URL without its version. Long paths are not guessed at: it would take time by their square."""
    async with running() as run:
        assert (await run.client.get(path)).json() == {"error": f"no such path: '{path}'; there is {meant}"}
        long = await run.client.get("/" + "v2/health/ready/" * 20)
        assert "there is" not in long.json()["error"]


async def test_a_wrong_method_is_405_and_says_which_are_right() -> None:
    """405 has an Allow header with every method of the path."""
    async with running() as run:
        infer, models = await run.client.get(INFER), await run.client.delete("/v1/models")

        assert (infer.status_code, infer.headers["allow"]) == (405, "POST")
        assert (models.status_code, models.headers["allow"]) == (405, "GET, HEAD")
        assert models.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"inputs": 7}', b'{"inputs": [{"name": "prompt"}]}', b'{"text_input": 1}']
)
async def test_a_malformed_body_is_400(body: bytes) -> None:
    """What is not an inference request is 400 with one string."""
    async with running() as run:
        reply = await run.client.post(INFER, content=body)

        assert (reply.status_code, list(reply.json())) == (400, ["error"])


async def test_head_answers_where_get_does() -> None:
    """HEAD is GET without a body."""
    async with running() as run:
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/toy", "/v2/models/toy/ready", "/v1/models", "/ping"):
            reply = await run.client.head(path)

            assert (path, reply.status_code, reply.content) == (path, 200, b"")


async def test_a_request_that_is_no_http_gets_json() -> None:
    """The parser's refusals are JSON too."""
    import asyncio

    async with running() as run:
        host, port = run.rest.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"NO SUCH THING\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(), 10)
        writer.close()

        head, _, body = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert body == b'{"error":"this is not a valid HTTP/1.1 request"}'
