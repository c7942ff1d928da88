"""Nobody gets around the keys: a thousand spellings of paths, hosts and headers, over sockets of our own and over gRPC.

CVE-2026-48710 and its kin made a closed path look open by what a `Host` header said; proxies and frameworks disagree over dots, slashes and
percent signs in as many ways. Each spelling must end at 400 or 401, or be an open path to the letter; and the model must see none of them.
"""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpc import aio

from server.raw import connected
from server.running import Running, running

KEY = "correct-horse"
OPEN = {"/v2/health/live", "/v2/health/ready", "/ping"}
CLOSED = ("/v2/models/toy/infer", "/v1/echo", "/v1/models", "/invocations", "/openapi.json", "/v2/repository/index")
LIVE = "/v2/health/live"

HOSTS = (
    "Host: t",
    f"Host: a{LIVE}?x=",
    f"Host: a{LIVE}#",
    "Host: a/ping?",
    "Host: user@a/ping;",
    f"Host: t\r\nX-Original-URL: {LIVE}",
    "Host: t\r\nX-Rewrite-URL: /ping\r\nX-Forwarded-Path: /ping",
    "Host: t\r\nX-Forwarded-Prefix: /ping\r\nX-Forwarded-Host: a/ping\r\nForwarded: host=a;path=/ping",
    "Host: t\r\nX-HTTP-Method-Override: GET\r\nX-Method-Override: HEAD",
    "Host: t\r\nX-Envoy-Original-Path: /ping",
    "Host: t\r\nHost: a/ping",
)


def spellings(path: str) -> Iterator[str]:
    """Ways to write `path` that some server or proxy reads as something else."""
    first, rest = path[1], path[2:]
    yield path
    yield f"/ping/..{path}"
    yield f"{LIVE}/../../..{path}"
    yield f"{LIVE}/%2e%2e/%2e%2e/%2e%2e{path}"
    yield f"{LIVE}%2f..%2f..%2f..{path}"
    yield f"/ping;{path}"
    yield f"/ping;/..{path}"
    yield f"/ping%00{path}"
    yield f"/ping%3f{path}"
    yield f"/ping%23{path}"
    yield f"/ping\\..{path}"
    yield f"/{path}"
    yield f"/.{path}"
    yield f"{path}/"
    yield f"{path}/."
    yield f"{path}//"
    yield f"{path};{LIVE}"
    yield f"{path}?{LIVE}"
    yield f"{path}?x=/../../ping"
    yield f"{path}#{LIVE}"
    yield f"{path}%20"
    yield f"{path}%00"
    yield f"{path}%2f..%2f..{LIVE}"
    yield f"{path}/..{LIVE}".replace("..", "%2e.")
    yield f"/%{ord(first):02x}{rest}"
    yield f"/%25{ord(first):02x}{rest}"
    yield f"/%c0%af{rest}"
    yield f"/%u00{ord(first):02x}{rest}"
    yield path.upper()
    yield f"http://t{path}"
    yield f"http://t{LIVE}/../../..{path}"
    yield f"http://ping@t{path}"
    yield f"//t{path}"


async def _ask(run: Running, method: str, target: str, head: str) -> int:
    """The status of one request on a connection of its own; 0 where the server hung up without a word."""
    async with connected(run) as client:
        body = b'{"text_input": "hi"}' if method == "POST" else b""
        await client.send(f"{method} {target} HTTP/1.1\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body)
        try:
            return (await client.reply()).status
        except asyncio.IncompleteReadError:
            return 0


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"team-a:{KEY}\n")
    return file


async def test_no_spelling_of_a_path_or_host_opens_anything(keys: Path) -> None:
    """Every spelling of every closed path, under a host and a method in turn, and every host at every closed path."""
    requests = {
        (("GET", "POST")[(i + j) % 2], target, HOSTS[(i + j) % len(HOSTS)])
        for i, path in enumerate(CLOSED)
        for j, target in enumerate(spellings(path))
    } | {(method, path, host) for method in ("GET", "POST", "PUT", "OPTIONS", "DELETE") for path in CLOSED for host in HOSTS}
    assert len(requests) >= 500
    async with running(api_keys_file=keys, repository_api=True) as run:
        seen = {request: await _ask(run, *request) for request in sorted(requests)}
        assert {request: status for request, status in seen.items() if status not in (400, 401)} == {}
        assert list(seen.values()).count(401) > 400  # they reached the gate, most of them
        assert run.toy.seen == []


async def test_only_the_open_paths_to_the_letter_are_open(keys: Path) -> None:
    """Each spelling of an open path itself: reading it answers where the path is that path once decoded, nothing else does."""
    async with running(api_keys_file=keys) as run:
        opened = set()
        for path in sorted(OPEN):
            for target in spellings(path):
                for host in HOSTS[:4]:
                    for method in ("GET", "POST"):
                        status = await _ask(run, method, target, host)
                        assert status in (200, 400, 401)
                        if status == 200:
                            opened.add((method, target))
        assert {method for method, _ in opened} == {"GET"}
        assert {target for _, target in opened} >= OPEN
        decoded = {f"/%{ord(path[1]):02x}{path[2:]}" for path in OPEN}
        named = {target.partition("?")[0].partition("#")[0].removeprefix("http://t").removeprefix("http://ping@t") for _, target in opened}
        assert named <= OPEN | decoded


AUTHORIZATIONS = (
    "",
    "Bearer",
    "Bearer ",
    f"Bearer  {KEY}x",
    f"Bearer x{KEY}",
    f"Bearer {KEY.upper()}",
    f"Bearer {KEY[:-1]}",
    f"Bearer {KEY},{KEY}",
    f"Bearer {KEY} {KEY}",
    f"Bearer\t{KEY}",
    f"Bearer={KEY}",
    f'Bearer "{KEY}"',
    f"Bearer {KEY}\x7f",
    f"Bearer {KEY}\xa0x",
    f"Token {KEY}",
    f"Basic {base64.b64encode(f'team-a:{KEY}'.encode()).decode()}",
    f"Basic {KEY}",
    f"Digest username={KEY}",
    KEY,
    "Bearer null",
    "Bearer undefined",
    "Bearer team-a",
    f"Bearer team-a:{KEY}",
    "Bearer sha256=" + "0" * 64,
    "Bearer " + "x" * 4000,
    "Bearer *",
    "Bearer %",
    "Bearer ' OR 1=1 --",
)


@pytest.mark.parametrize("given", AUTHORIZATIONS)
async def test_nothing_but_the_key_is_the_key(keys: Path, given: str) -> None:
    """Near misses, other schemes, the key's name and the file's own spelling."""
    async with running(api_keys_file=keys) as run:
        assert await _ask(run, "POST", CLOSED[0], f"Host: t\r\nAuthorization: {given}") in (400, 401)
        for elsewhere in (f"X-API-Key: {KEY}", f"Api-Key: {KEY}", f"Cookie: key={KEY}", f"Proxy-Authorization: Bearer {KEY}"):
            assert await _ask(run, "POST", CLOSED[0], f"Host: t\r\n{elsewhere}") == 401
        assert await _ask(run, "POST", f"{CLOSED[0]}?api_key={KEY}&access_token={KEY}", "Host: t") == 401
        assert run.toy.seen == []


async def test_two_keys_are_none(keys: Path) -> None:
    """Right and wrong, in either order, over REST and gRPC: a hop before us may have judged the other one."""
    right, wrong = f"Bearer {KEY}", "Bearer wrong-horse"
    async with running(api_keys_file=keys) as run:
        for first, second in ((right, wrong), (wrong, right), (right, right)):
            head = f"Host: t\r\nAuthorization: {first}\r\nAuthorization: {second}"
            assert await _ask(run, "POST", CLOSED[0], head) == 401
            call = run.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            with pytest.raises(aio.AioRpcError) as failed:
                await call(b"", metadata=(("authorization", first), ("authorization", second)))
            assert failed.value.code().name == "UNAUTHENTICATED"
        assert await _ask(run, "GET", "/v2", f"Host: t\r\nAuthorization: {right}") == 200


INFER, OPEN_METHOD = "/inference.GRPCInferenceService/ModelInfer", "/grpc.health.v1.Health/Check"
METHODS = [
    INFER,
    INFER.lower(),
    INFER.upper(),
    f"{INFER}/",
    f"/{INFER}",
    f"{INFER}?",
    f"{INFER}#{OPEN_METHOD}",
    f"{INFER}?{OPEN_METHOD}",
    f"{OPEN_METHOD}/..{INFER}",
    f"{OPEN_METHOD}/../..{INFER}",
    f"{OPEN_METHOD}{INFER}",
    f"{OPEN_METHOD};{INFER}",
    f"{OPEN_METHOD}%00{INFER}",
    INFER.replace("M", "%4d"),
    INFER.replace("/", "%2f"),
    "/inference.GRPCInferenceService/ServerLive/../ModelInfer",
    "/inference.GRPCInferenceService/ServerReady/ModelInfer",
    "/inference.grpcinferenceservice/ServerLive",
    "/grpc.health.v1.Health/check",
    "/grpc.health.v1.Health/Check/",
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/inference.model_repository.ModelRepositoryService/RepositoryModelLoad",
    "/",
    "//",
    "/ping",
    LIVE,
]


@pytest.mark.parametrize("authority", ["t", "ping", "a/ping", "grpc.health.v1.Health"])
async def test_no_spelling_of_a_grpc_method_opens_anything(keys: Path, authority: str) -> None:
    """Every method that is not open to the letter is UNAUTHENTICATED, one that does not exist too."""
    async with running(api_keys_file=keys, repository_api=True) as run:
        async with aio.insecure_channel(run.grpc, options=[("grpc.default_authority", authority)]) as channel:
            for method in METHODS:
                with pytest.raises(aio.AioRpcError) as failed:
                    await channel.unary_unary(method)(b"")
                assert (method, failed.value.code().name) in ((method, "UNAUTHENTICATED"), (method, "INVALID_ARGUMENT"))
        assert run.toy.seen == []
