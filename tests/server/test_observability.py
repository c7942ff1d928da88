"""What an operator sees: metrics, the access log, request ids."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from mlserver.grpc import dataplane_pb2 as pb

from pilothouse.server.logs import Json, Text
from server.raw import connected
from server.running import Running, running, until
from server.test_grpc import asked
from server.test_v2_rest import INFER, tensor


async def scrape(run: Running) -> dict[str, float]:
    """Every sample of /metrics."""
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{run.metrics}/metrics")).text
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))}


async def test_gauges_show_the_engines_numbers() -> None:
    """The same numbers as readiness, at the moment of the scrape."""
    async with running() as run:
        run.toy.numbers = replace(run.toy.numbers, waiting=3, running=2, kv_used=0.5)
        samples = await scrape(run)

        names = ("pilothouse_requests_waiting", "pilothouse_requests_running", "pilothouse_kv_usage_ratio")
        assert [samples[name] for name in names] == [3, 2, 0.5]
        assert samples['pilothouse_model_info{device="cpu",digest="",engine="toy",name="toy",version="3"}'] == 1
        assert samples["process_open_fds"] > 0


async def test_every_promised_metric_is_there_from_the_start() -> None:
    """A dashboard finds each name before the first request."""
    promised = {
        "pilothouse_requests_waiting",
        "pilothouse_requests_running",
        "pilothouse_kv_usage_ratio",
        "pilothouse_time_to_first_token_seconds_count",
        "pilothouse_inter_token_seconds_count",
        "pilothouse_queue_seconds_count",
        'pilothouse_tokens_total{kind="prompt"}',
        'pilothouse_requests_total{outcome="ok",protocol="openai"}',
        "pilothouse_cancelled_total",
    }
    async with running(loaded=False) as run:
        assert promised <= set(await scrape(run))


async def test_clients_words_never_become_series() -> None:
    """Hundreds of unknown models and paths, over REST and gRPC, add not one."""
    async with running() as run:
        before = set(await scrape(run))
        for i in range(100):
            await run.client.post(f"/v2/models/ghost-{i}/infer", json={})
            await run.client.post(f"/ghost-{i}", json={})
            with pytest.raises(Exception, match="ghost"):
                await run.stub.ModelInfer(asked("hi", model=f"ghost-{i}"))
        samples = await scrape(run)

        assert set(samples) == before
        assert samples['pilothouse_requests_total{outcome="refused",protocol="v2"}'] == 100
        assert samples['pilothouse_requests_total{outcome="refused",protocol="grpc"}'] == 100


async def test_the_metrics_port_has_nothing_else() -> None:
    """No documents, no other method, and HEAD works."""
    async with running() as run, httpx.AsyncClient(base_url=run.metrics) as client:
        statuses = [(await client.get(path)).status_code for path in ("/", "/docs", "/openapi.json", "/metrics/", "/v2", "/ping")]
        assert statuses == [404] * 6
        wrong = await client.post("/metrics")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
        assert ((await client.head("/metrics")).status_code, (await run.client.get("/metrics")).status_code) == (200, 404)


async def test_metrics_can_want_a_token(tmp_path: Path) -> None:
    """With a token file set: the right bearer token and nothing else; a changed file counts at once."""
    token = tmp_path / "token"
    token.write_text("open sesame\n")
    async with running(metrics_token_file=token) as run, httpx.AsyncClient(base_url=run.metrics) as client:

        async def status(given: str | None) -> int:
            return (await client.get("/metrics", headers={"Authorization": given} if given else {})).status_code

        assert [await status(given) for given in (None, "Bearer no", "open sesame", "Bearer open sesame")] == [401, 401, 401, 200]
        token.write_text("closed")
        assert [await status(given) for given in ("Bearer open sesame", "Bearer closed")] == [401, 200]


async def test_a_request_id_comes_back() -> None:
    """The client's where it is plain, a new one elsewhere, on answers and errors alike; V2 answers take it where the body has none."""
    async with running() as run:
        given = await run.client.post(INFER, json=tensor("hi"), headers={"X-Request-Id": "mine-1"})
        assert (given.headers["x-request-id"], given.json()["id"]) == ("mine-1", "mine-1")
        failed = await run.client.get("/ghost", headers={"X-Request-Id": "mine-2"})
        assert failed.headers["x-request-id"] == "mine-2"
        for odd in ("", "x" * 200, "a b", 'a"b', "é"):
            made = (await run.client.get("/v2", headers={"X-Request-Id": odd.encode()})).headers["x-request-id"]
            assert (len(made), made.isalnum()) == (32, True)
        call = run.stub.ModelInfer(asked("hi"), metadata=(("x-request-id", "mine-3"),))
        assert (await call).id == "mine-3"


async def test_the_access_log_tells_who_and_how_and_not_what(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line a request: id, key's name, protocol, route's template, status, outcome, time. No content, no key, no client's path."""
    caplog.set_level(logging.DEBUG, logger="pilothouse")
    keys = tmp_path / "keys"
    keys.write_text("team-a:correct-horse\n")
    secret = "tell nobody"
    async with running(api_keys_file=keys, headers={"Authorization": "Bearer correct-horse", "X-Request-Id": "r"}) as run:
        await run.client.post(INFER, json=tensor(secret))
        await run.client.post("/v1/echo", content=secret)
        await run.client.post(f"/{secret}", content=secret)
        await run.stub.ModelInfer(asked(secret), metadata=(("authorization", "Bearer correct-horse"), ("x-request-id", "r")))
        await run.client.get("/v2/health/ready")
        async with connected(run) as client:
            await client.post(INFER, b"x", "Authorization: Bearer other-horse")
            await client.reply()
        await until(lambda: len([r for r in caplog.records if r.name == "pilothouse.access"]) == 6)

    lines = [(r.levelname, {k: v for k, v in r.fields.items() if k != "ms"}) for r in caplog.records if r.name == "pilothouse.access"]
    common = {"id": "r", "key": "team-a", "method": "POST"}
    assert lines[:5] == [
        ("INFO", {**common, "protocol": "v2", "route": "/v2/models/{model}/infer", "status": 200, "outcome": "ok"}),
        ("INFO", {**common, "protocol": "openai", "route": "/v1/echo", "status": 200, "outcome": "ok"}),
        ("INFO", {**common, "protocol": "other", "route": "unknown", "status": 404, "outcome": "refused"}),
        ("INFO", {"id": "r", "key": "team-a", "protocol": "grpc", "route": "ModelInfer", "status": "OK", "outcome": "ok"}),
        ("DEBUG", {**common, "key": "", "method": "GET", "protocol": "v2", "route": "/v2/health/ready", "status": 200, "outcome": "ok"}),
    ]
    assert (lines[5][1]["key"], lines[5][1]["status"]) == ("", 401)
    written = " ".join(Json().format(record) + Text().format(record) for record in caplog.records)
    assert not [word for word in (secret, "horse") if word in written]


async def test_probes_are_told_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Kubelets, balancers and Prometheus ask every few seconds, ready or not: only what is wrong with a probe is worth a line."""
    caplog.set_level(logging.INFO, logger="pilothouse.access")
    async with running() as run, httpx.AsyncClient(base_url=run.metrics) as metrics:
        paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/toy/ready", "/v2/models/toy/versions/3/ready")
        assert [(await run.client.get(path)).status_code for path in paths] == [200] * 4
        assert (await metrics.get("/metrics")).status_code == 200
        await run.stub.ServerLive(pb.ServerLiveRequest())
        await run.stub.ServerReady(pb.ServerReadyRequest())
        await run.stub.ModelReady(pb.ModelReadyRequest(name="toy"))
        run.toy.numbers = replace(run.toy.numbers, alive=False)
        assert [(await run.client.get(path)).status_code for path in paths[1:]] == [503] * 3
        assert [r for r in caplog.records if r.name == "pilothouse.access"] == []

        assert (await run.client.get("/v2/models/ghost/ready")).status_code == 404
    assert [r.fields["status"] for r in caplog.records if r.name == "pilothouse.access"] == [404]


def test_a_log_line_is_one_object(caplog: pytest.LogCaptureFixture) -> None:
    """JSON lines hold what was said, a record's fields, and a traceback, each on one line."""
    record = logging.LogRecord("pilothouse.server", logging.ERROR, "f", 1, "a\nb %d", (1,), None)
    record.fields = {"id": "x"}
    line = Json().format(record)

    import orjson

    told: dict[str, Any] = orjson.loads(line)
    assert ("\n" in line, told.pop("time")[-1]) == (False, "Z")
    assert told == {"level": "error", "logger": "pilothouse.server", "message": "a\nb 1", "id": "x"}


async def test_every_request_for_an_answer_is_counted_once() -> None:
    """By how it ended, on every protocol; a model that counts nothing itself is counted at the edge, reading and probing is not."""
    async with running() as run:
        await run.client.post(INFER, json=tensor("hi"))
        await run.client.post(INFER, content=b"{")
        await run.client.post("/v2/models/toy/infer_stream", json=tensor("late foreign"))
        await run.client.post("/v1/echo", content=b"fail overloaded")
        await run.client.post("/invocations", content=b"fail engine")
        await run.client.get("/v2/models/toy")
        await run.client.get("/v2/health/ready")
        await run.stub.ModelInfer(asked("hi"))
        call = run.stub.ModelInfer(asked("hold on"))
        await until(lambda: run.toy.gate.running == 1)
        call.cancel()
        async with connected(run) as client:
            await client.post("/v1/echo", b"hold on")
            await until(lambda: run.toy.gate.running == 1)
        await until(lambda: run.toy.gate.running == 0)
        samples = await scrape(run)

    counted = {name.partition("{")[2]: value for name, value in samples.items() if name.startswith("pilothouse_requests_total") and value}
    assert counted == {
        'outcome="ok",protocol="v2"}': 1,
        'outcome="refused",protocol="v2"}': 1,
        'outcome="failed",protocol="v2"}': 1,
        'outcome="refused",protocol="openai"}': 1,
        'outcome="failed",protocol="mlflow"}': 1,
        'outcome="ok",protocol="grpc"}': 1,
        'outcome="cancelled",protocol="grpc"}': 1,
        'outcome="cancelled",protocol="openai"}': 1,
    }
    assert samples["pilothouse_cancelled_total"] == 2
