"""A refusal by the short way is the refusal that the layers would have made: to the caller, in the metrics and in the log."""

import asyncio
import logging
from pathlib import Path

import orjson
import pytest

from pilothouse.calls import Call
from pilothouse.server.edge import Edge
from pilothouse.server.health import Phase
from pilothouse.server.http1 import MAX_DROPPED_BYTES
from server.raw import Reply, connected
from server.running import Running, running
from server.test_v2_rest import INFER

KEYS = "team-a:the-first-horse\nteam-b:the-second-horse at-once=1\n"
EACH_ITS_OWN = ("date", "retry-after-ms", "x-request-id")
ASKS = [INFER, "/v2/models/toy/versions/3/generate_stream", "/v1/echo", "/invocations"]


@pytest.fixture
def layered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the requests that came through the layers."""
    seen: list[str] = []
    layers = Edge.__call__

    async def noted(self: Edge, scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        seen.append(scope["path"])
        await layers(self, scope, receive, send)

    monkeypatch.setattr(Edge, "__call__", noted)
    return seen


async def both_ways(run: Running, path: str, *headers: str) -> tuple[Reply, Reply]:
    """What a request hears that is plain, and one that is the same to the layers, but not plain."""
    async with connected(run) as short, connected(run) as long:
        await short.post(path, b"{}", "X-Request-Id: one", *headers)
        await long.post(path, b"{}", "X-Request-Id: one", "Connection: keep-alive, x", *headers)
        return await short.reply(), await long.reply()


@pytest.mark.parametrize("path", ASKS)
async def test_it_says_what_the_layers_say(path: str, layered: list[str]) -> None:
    """Status, headers, the route's own error shape, one count and one line of the log."""
    async with running() as run:
        told: list[Call] = []
        run.server.finished.tell(told.append)
        run.toy.full = True
        short, long = await both_ways(run, path)
        assert layered == [path]
        assert (short.status, short.body) == (long.status, long.body)
        assert short.status == 429
        ours, theirs = ({name: value for name, value in reply.headers.items() if name not in EACH_ITS_OWN} for reply in (short, long))
        assert ours == theirs
        assert short.headers["x-request-id"] == long.headers["x-request-id"] == "one"
        assert 3000 <= int(short.headers["retry-after-ms"]) <= 4500
        first, second = told
        assert (first.protocol, first.method, first.route, first.status, first.outcome) == (
            second.protocol,
            second.method,
            second.route,
            second.status,
            second.outcome,
        )
        counted = f'pilothouse_requests_total{{outcome="refused",protocol="{first.protocol}"}} 2.0'
        assert counted in run.server.metrics.render().decode()


async def test_the_connection_goes_on(layered: list[str]) -> None:
    """The body of a refused request is dropped, however it comes, and the next request on the connection is answered."""
    async with running() as run, connected(run) as client:
        run.toy.full = True
        await client.post("/v1/echo", b"", length=6)
        assert (await client.reply()).status == 429
        await client.send(b"POST")
        await client.send(b" /POST /v1/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n")  # the body's end, and the next head
        assert (await client.reply()).status == 429
        run.toy.full = False
        await client.send(b"x")
        await client.post("/v1/echo", b"heard")
        reply = await client.reply()
        assert (reply.status, reply.body, layered) == (200, b"heard", ["/v1/echo"])


async def test_it_closes_where_the_client_wants_it(layered: list[str]) -> None:
    """After the body: a connection that is closed before would be reset, and the answer lost."""
    async with running() as run, connected(run) as client:
        run.toy.full = True
        await client.post("/v1/echo", b"", "Connection: close", length=4)
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"], layered) == (429, "close", [])
        run.toy.full = False
        await client.send(b"1234POST /v1/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
        assert await client.rest() == b""
    assert layered == []


async def test_what_is_not_certain_goes_through_the_layers(layered: list[str]) -> None:
    """Large bodies, unknown models and paths, other methods, two requests in one piece, and a server on its way out."""
    async with running() as run:
        run.toy.full = True
        async with connected(run) as client:
            await client.post("/v1/echo", length=MAX_DROPPED_BYTES + 1)
            assert (await client.reply()).status == 429
        assert (await run.client.post("/v2/models/other/infer", content=b"{}")).status_code == 404
        assert (await run.client.post("/v1/else", content=b"{}")).status_code == 404
        assert (await run.client.get("/v1/models")).status_code == 200
        async with connected(run) as client:
            await client.send(b"POST /v1/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n" * 2)
            assert [(await client.reply()).status for _ in range(2)] == [429, 429]
        assert layered[:4] == ["/v1/echo", "/v2/models/other/infer", "/v1/else", "/v1/models"]
        assert "/v1/echo" in layered[4:]
        layered.clear()
        run.server.health.phase = Phase.LEAVING
        assert (await run.client.post("/v1/echo", content=b"x")).headers["connection"] == "close"
        assert layered == ["/v1/echo"]


async def test_keys_come_first(layered: list[str], tmp_path: Path) -> None:
    """A full server tells nobody so who has no key, names the key in its log, and takes from a key's own limits before it looks for a place."""
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    async with running(api_keys_file=keys) as run:
        told: list[Call] = []
        run.server.finished.tell(told.append)
        run.toy.full = True
        assert (await run.client.post("/v1/echo", content=b"x")).status_code == 401
        for key, way in (("the-first-horse", []), ("the-second-horse", ["/v1/echo"])):
            layered.clear()
            assert (await run.client.post("/v1/echo", content=b"x", headers={"Authorization": f"Bearer {key}"})).status_code == 429
            assert layered == way
        assert [(call.tenant, call.status) for call in told] == [("", 401), ("team-a", 429), ("team-b", 429)]


async def test_those_who_come_at_once_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is asked for behind those that were let in before it and have not begun; when their tasks have, nobody is ahead any more."""
    async with running() as run:
        turnstile = run.server.rest.turnstile
        assert turnstile is not None
        ahead: list[int] = []
        monkeypatch.setattr(run.toy, "admit", ahead.append)
        assert [turnstile.passes() for _ in range(3)] == [True] * 3
        await asyncio.sleep(0)
        assert turnstile.passes()
        turnstile.begins()
        await asyncio.sleep(0)
        assert turnstile.passes()
        assert ahead == [0, 1, 2, 3, 0]


async def test_the_access_log_has_the_same_line(caplog: pytest.LogCaptureFixture) -> None:
    """But for its milliseconds."""
    async with running() as run:
        run.toy.full = True
        with caplog.at_level(logging.INFO, logger="pilothouse.access"):
            await both_ways(run, "/v1/echo")
        lines = [{**record.fields, "ms": 0} for record in caplog.records if record.name == "pilothouse.access"]  # type: ignore[attr-defined]
        assert len(lines) == 2
        assert orjson.dumps(lines[0]) == orjson.dumps(lines[1])
