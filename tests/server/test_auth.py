"""Keys: what is open without one, and that nothing else is."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pilothouse.errors import StartError, Unauthenticated
from pilothouse.server import page
from pilothouse.server.auth import Keys
from pilothouse.server.quotas import Allowance
from server.running import Running, running, until
from server.test_grpc import asked, streamed, triton
from server.test_v2_rest import INFER, tensor

KEY = "correct-horse"
RIGHT, WRONG = {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer wrong-horse"}
OPEN = {"/v2/health/live", "/v2/health/ready", "/ping"}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file with a plain key, a hashed one, and one name that has two."""
    file = tmp_path / "keys"
    digest = hashlib.sha256(b"hashed-horse").hexdigest()
    file.write_text(f"# ours\n\nteam-a:{KEY}\nteam-b:sha256={digest}\nteam-a:second-horse\n")
    return file


@pytest.mark.parametrize("with_page", [False, True])
async def test_every_route_wants_a_key_but_the_open_ones(keys: Path, with_page: bool) -> None:
    """Every route of the application, by every method, without a key and with a wrong one. The chat page's files, which hold no data, are
    open to reading where it is served; what the page then asks for is not."""
    opened = OPEN | ({route.path for route in page.routes()} if with_page else set())
    async with running(api_keys_file=keys, repository_api=True, page=with_page) as run:
        routes = [(route.path, method) for route in run.server.rest._app.router.routes for method in route.methods]
        seen = {}
        for path, method in [*routes, ("/openapi.json", "GET"), ("/docs", "GET"), ("/metrics", "GET"), ("/", "GET"), ("/ghost", "POST")]:
            url = path.format(model="toy", version="3", model_name="toy")
            for headers in ({}, WRONG, {"Authorization": "Basic abc"}, {"Authorization": KEY}, {"X-API-Key": KEY}):
                seen[path, method] = (await run.client.request(method, url, headers=headers)).status_code

        assert len(routes) > 20
        assert {path for (path, method), status in seen.items() if status != 401} == opened
        assert all(status == 200 for (path, method), status in seen.items() if path in opened and method == "GET")


async def test_a_right_key_opens_and_is_named(keys: Path) -> None:
    """Each key answers for its name, hashed or not; the model is told the name."""
    async with running(api_keys_file=keys) as run:
        for key in (KEY, "hashed-horse", "second-horse"):
            reply = await run.client.post(INFER, json=tensor("hi"), headers={"Authorization": f"bearer {key}"})
            assert reply.status_code == 200
        assert [tenant for _, tenant, _ in run.toy.seen] == ["team-a", "team-b", "team-a"]


async def test_a_refusal_is_typed_and_says_how(keys: Path) -> None:
    """401 in the caller's shape, with the scheme that is wanted."""
    async with running(api_keys_file=keys) as run:
        openai, v2 = await run.client.get("/v1/models"), await run.client.get("/v2", headers=WRONG)

        assert openai.json()["error"]["type"] == "authentication_error"
        assert openai.json()["error"]["code"] == "invalid_api_key"
        assert (v2.status_code, v2.json(), v2.headers["www-authenticate"]) == (401, {"error": "the API key is not known here"}, "Bearer")


async def test_open_paths_are_open_to_reading_only(keys: Path) -> None:
    """Another method on an open path is a request like any other."""
    async with running(api_keys_file=keys) as run:
        assert [(await run.client.post(path)).status_code for path in sorted(OPEN)] == [401, 401, 401]


@pytest.mark.parametrize(
    "method", ["ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ServerMetadata", "RepositoryIndex", "Ghost"]
)
async def test_every_grpc_method_wants_a_key_but_the_open_ones(keys: Path, method: str) -> None:
    """Without a key and with a wrong one: UNAUTHENTICATED before anything is read."""
    async with running(api_keys_file=keys) as run:
        for metadata in ((), (("authorization", "Bearer wrong-horse"),), (("x-api-key", KEY),)):
            call = run.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            with pytest.raises(aio.AioRpcError) as failed:
                await call(b"", metadata=metadata)
            assert failed.value.code().name == "UNAUTHENTICATED"


async def test_grpc_reflection_wants_a_key_and_health_none(keys: Path) -> None:
    """Health v1, ServerLive and ServerReady are all that is open."""
    async with running(api_keys_file=keys) as run:
        reflection = run.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")

        async def nothing() -> Any:
            yield b""

        with pytest.raises(aio.AioRpcError) as failed:
            [message async for message in reflection(nothing())]
        assert failed.value.code().name == "UNAUTHENTICATED"
        health = health_pb2_grpc.HealthStub(run.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        for method in ("ServerLive", "ServerReady"):
            assert await run.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"") == b"\x08\x01"


async def test_a_right_key_opens_grpc(keys: Path) -> None:
    """The key goes into the metadata as it goes into REST's header."""
    async with running(api_keys_file=keys) as run:
        await run.stub.ModelInfer(asked("hi"), metadata=(("authorization", f"Bearer {KEY}"),))
        assert run.toy.seen[-1][1] == "team-a"


def test_keys_are_read_again_when_the_file_changes(keys: Path) -> None:
    """A key added counts at once, one taken away no longer; a file that makes no sense, or is gone, changes nothing."""
    found = Keys(keys)
    _write(keys, "team-c:third-horse\n", 1)
    assert found.admit("Bearer third-horse") == "team-c"
    with pytest.raises(Unauthenticated):
        found.admit(f"Bearer {KEY}")
    _write(keys, "nonsense\n", 2)
    assert found.admit("Bearer third-horse") == "team-c"
    keys.unlink()
    assert found.admit("Bearer third-horse") == "team-c"
    _write(keys, "", 3)
    with pytest.raises(Unauthenticated):
        found.admit("Bearer third-horse")


def _write(path: Path, text: str, second: int) -> None:
    path.write_text(text)
    os.utime(path, (second, second))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "holds no key"),
        ("# none\n", "holds no key"),
        ("just-a-key\n", "line 1 is not name:key"),
        ("a:good-horse\nb:short\n", "line 2 is not name:key"),
        ("a:sha256=abc\n", "line 1 is not name:key"),
        ("a:with space\n", "line 1 is not name:key"),
        ("a:good-horse at-once=0\n", "line 1: after the key may stand at-once=N"),
        ("a:good-horse at-once=2 at-once=3\n", "line 1: after the key may stand at-once=N"),
        ("a:good-horse speed=9\n", "line 1: after the key may stand at-once=N"),
        ("a:good-horse at-once=2\na:other-horse at-once=3\n", "line 2 gives other limits to a name that has some"),
    ],
)
def test_a_file_that_makes_no_sense_ends_the_start(tmp_path: Path, text: str, problem: str) -> None:
    """The setting and the line are named; what the line holds is not."""
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(StartError, match=problem) as failed:
        Keys(file)
    assert "api_keys_file" in str(failed.value)
    assert "horse" not in str(failed.value)
    assert "just-a-key" not in str(failed.value)


def test_a_missing_file_ends_the_start(tmp_path: Path) -> None:
    """A start without the keys that were asked for would be an open server."""
    with pytest.raises(StartError, match="api_keys_file"):
        Keys(tmp_path / "none")


LIMITED = f"team-a:{KEY} at-once=1 requests-per-minute=3\nteam-b:other-horse\n"


async def test_a_key_s_limits_hold_on_every_protocol(tmp_path: Path) -> None:
    """429 and RESOURCE_EXHAUSTED in the caller's shape, before the body is read; reading and other keys are not counted."""
    keys = tmp_path / "keys"
    keys.write_text(LIMITED)
    async with running(api_keys_file=keys, headers=RIGHT) as run:
        held = asyncio.create_task(run.client.post(INFER, json=tensor("hold on")))
        await until(lambda: run.toy.gate.running == 1)
        openai, v2 = await run.client.post("/v1/echo", content="hi"), await run.client.post(INFER, content=b"{")
        with pytest.raises(aio.AioRpcError) as failed:
            await run.stub.ModelInfer(asked("hi"), metadata=(("authorization", f"Bearer {KEY}"),))
        in_stream = await errors_of(run, asked("hi"))
        reading = await run.client.get("/v2/models/toy")
        other = await run.client.post(INFER, json=tensor("hi"), headers={"Authorization": "Bearer other-horse"})
        run.toy.gate.open.set()
        await held
        answered = [await errors_of(run, asked("hi"), asked("ho")), (await run.client.post(INFER, json=tensor("hi"))).status_code]

    assert (openai.status_code, openai.headers["retry-after"], openai.json()["error"]["code"]) == (429, "1", "rate_limit_exceeded")
    assert (v2.status_code, v2.json()) == (429, {"error": "this API key may have 1 requests at once; wait for one to end"})
    assert failed.value.code().name == "RESOURCE_EXHAUSTED"
    assert in_stream == ["this API key may have 1 requests at once; wait for one to end"]
    assert (reading.status_code, other.status_code) == (200, 200)
    assert answered == [["", ""], 429]


async def errors_of(run: Running, *requests: Any) -> list[str]:
    """The errors of a stream's answers, "" for each that has none."""
    return [triton(message)[0] for message in await streamed(run, *requests, metadata=(("authorization", f"Bearer {KEY}"),))]


def test_limits_are_read_again_with_the_keys(keys: Path) -> None:
    """They belong to the name, wherever they stand in the file."""
    found = Keys(keys)
    assert found.allowance("team-a") == Allowance()
    _write(keys, f"team-a:{KEY}\nteam-a:second-horse requests-per-minute=60 tokens-per-minute=9000 at-once=2\n", 1)
    assert found.admit(f"Bearer {KEY}") == "team-a"
    assert found.allowance("team-a") == Allowance(at_once=2, requests_per_minute=60, tokens_per_minute=9000)


def test_every_key_is_compared_each_time(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of an answer tells nothing of which key matched: hashes are compared in constant time, all of them."""
    import hmac

    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    found = Keys(keys)
    assert found.admit(f"Bearer {KEY}") == "team-a"
    assert len(compared) == 3
