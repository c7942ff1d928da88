"""Traces: off unless asked for, one span a request in the conventions' words, no content, and no harm from a collector that is gone."""

import asyncio
import logging
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.errors import StartError
from server.running import running
from server.test_grpc import asked
from server.test_v2_rest import INFER, tensor
from support.collector import Collector, collecting, plain
from support.server import served

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "the-orchard-key-is-under-the-third-pot"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector, named by OpenTelemetry's own environment; spans go out soon."""
    with collecting() as found:
        _point(monkeypatch, found.url)
        yield found
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


def _point(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")


async def _came(collector: Collector, spans: int) -> list[object]:
    return await asyncio.to_thread(collector.wait, spans)


async def test_a_request_is_one_span_with_its_account(collector: Collector) -> None:
    """REST and gRPC: name, kind, times and attributes; the caller's trace goes on in it; the log line names the trace."""
    async with running(traces=True) as run:
        joined = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}
        await run.client.post(INFER, json=tensor(SECRET), headers=joined)
        await run.stub.ModelInfer(asked(SECRET), metadata=(("x-request-id", "r-2"),))
        await run.client.get("/nowhere")
        spans = {plain(span)["pilothouse.request.id"]: span for span in await _came(collector, 3)}

    rest, grpc = spans["r-1"], spans["r-2"]
    assert (rest.trace_id.hex(), rest.parent_span_id.hex(), rest.name) == (TRACE, PARENT, "POST /v2/models/{model}/infer")
    assert (grpc.parent_span_id, grpc.name) == (b"", "inference.GRPCInferenceService/ModelInfer")
    assert {span.kind for span in spans.values()} == {2}  # SERVER
    assert 0 < rest.end_time_unix_nano - rest.start_time_unix_nano < 30_000_000_000
    assert plain(rest) == {
        "pilothouse.request.id": "r-1",
        "pilothouse.protocol": "v2",
        "pilothouse.outcome": "ok",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v2/models/{model}/infer",
    }
    assert plain(grpc) == {
        "pilothouse.request.id": "r-2",
        "pilothouse.protocol": "grpc",
        "pilothouse.outcome": "ok",
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "rpc.response.status_code": "OK",
    }
    (resource,) = {of.resource.SerializeToString() for request in collector.requests() for of in request.resource_spans}
    assert b"pilothouse" in resource
    assert SECRET.encode() not in b"".join(collector.bodies)


async def test_the_servers_fault_is_an_error_and_a_refusal_none(collector: Collector) -> None:
    """Status ERROR for a failure; both name the status as error.type."""
    async with running(traces=True) as run:
        await run.client.post(INFER, json=tensor("fail engine"))
        await run.client.post(INFER, json=tensor("fail invalid"))
        spans = await _came(collector, 2)
    assert [(span.status.code, plain(span)["error.type"], span.status.message) for span in spans] == [(2, "500", ""), (0, "400", "")]


async def test_probes_make_no_spans(collector: Collector) -> None:
    """Neither over REST nor over gRPC: they would be most of all spans."""
    async with running(traces=True) as run:
        for path in ("/v2/health/live", "/v2/health/ready", "/ping"):
            await run.client.get(path)
        await run.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"")
        await run.client.get("/v2")
        (span,) = await _came(collector, 1)
    assert span.name == "GET /v2"
    told = [plain(one) for one in collector.spans()]  # also of what the run itself asked each so many servers at their end
    assert not {one.get("http.route", one.get("rpc.method")) for one in told} & {
        "/v2/health/live",
        "/v2/health/ready",
        "/ping",
        "ServerLive",
    }


async def test_nothing_is_sent_unless_it_is_asked_for(collector: Collector) -> None:
    """The environment alone turns nothing on."""
    async with running() as run:
        await run.client.post(INFER, json=tensor("hi"))
        assert run.server.traces is None
    assert collector.bodies == []


async def test_the_environment_says_how_many_and_under_which_name(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's sampler, service name and headers are honoured; a caller that was sampled stays sampled."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "orchard")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-orchard=1")
    async with running(traces=True) as run:
        for _ in range(5):
            await run.client.get("/v2")
        await run.client.get("/v2", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        (span,) = await _came(collector, 1)
    assert span.trace_id.hex() == TRACE
    assert len(collector.spans()) == 1
    assert collector.headers[0]["x-orchard"] == "1"
    assert b"orchard" in collector.bodies[0]


@pytest.mark.parametrize("given", ["nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", "00-" + "a" * 4000])
async def test_a_traceparent_that_makes_no_sense_is_left(collector: Collector, given: str) -> None:
    """As the standard wants it: a new trace begins, and the request is answered."""
    async with running(traces=True) as run:
        assert (await run.client.get("/v2", headers={"traceparent": given})).status_code == 200
        (span,) = await _came(collector, 1)
    assert (span.parent_span_id, span.trace_id.hex() != TRACE) == (b"", True)


async def test_a_collector_that_is_gone_costs_spans_and_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of answers with nobody listening: all there, one warning, and the server stops in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        _point(monkeypatch, f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    caplog.set_level(logging.INFO, logger="pilothouse.server")
    async with running(traces=True) as run:
        statuses = [(await run.client.post(INFER, json=tensor("hi"))).status_code for _ in range(300)]
        assert statuses == [200] * 300
        async with asyncio.timeout(20):
            while "traces" not in caplog.text:  # noqa: ASYNC110  # the sending thread tells nobody
                await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            await run.leave()
    assert caplog.text.count("the collector of traces does not take them") == 1
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


async def test_a_collector_that_hangs_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and says nothing: answers come, and the server stops without it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        _point(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with running(traces=True) as run:
            assert (await run.client.get("/v2")).status_code == 200
            async with asyncio.timeout(5):
                await run.leave()
    logging.getLogger("opentelemetry").setLevel(logging.NOTSET)


async def test_a_protocol_that_is_not_there_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC's form of OTLP is refused by the variable's name, not ignored."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(StartError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc', and traces are sent over http/protobuf only"):
        async with running(traces=True):
            pass


async def test_without_the_library_the_start_ends_with_the_extra_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not later, and not without traces."""
    monkeypatch.delitem(sys.modules, "pilothouse.server.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(StartError, match=r"pip install 'pilothouse\[traces\]'"):
        async with running(traces=True):
            pass


def test_an_answer_s_span_speaks_the_conventions_for_generative_ai(collector: Collector, tmp_path: Path) -> None:
    """A real process: operation, model, options, tokens, finish reason and first token; nothing of the prompt, the answer or the key."""
    keys = tmp_path / "keys"
    keys.write_text(f"team-a:{SECRET}\n")
    with served(scripted=True, traces="true", api_keys_file=keys) as server:
        body = {
            "model": server.model,
            "messages": [{"role": "user", "content": f"What about {SECRET}?"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "max_tokens": 5,
            "stop": [SECRET],
            "user": SECRET,
        }
        client = server.client
        client.key = SECRET
        answer = client.post("/v1/chat/completions", body).json
        for _ in client.events("/v1/completions", {"model": server.model, "prompt": SECRET, "max_tokens": 2, "stream": True}):
            pass
        chat, completion = collector.wait(2)
        log = server.log.read_text()

    told = plain(chat)
    assert (chat.name, completion.name) == ("chat scripted", "text_completion scripted")
    assert 0 < told.pop("gen_ai.response.time_to_first_chunk") < 60
    assert 0 <= told.pop("pilothouse.queue_seconds") < 60
    assert told.pop("pilothouse.request.id") in log
    assert told == {
        "pilothouse.protocol": "openai",
        "pilothouse.outcome": "ok",
        "pilothouse.key": "team-a",
        "pilothouse.engine": "scripted",
        "pilothouse.model.version": "1",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pilothouse",
        "gen_ai.output.type": "text",
        "gen_ai.request.model": "scripted",
        "gen_ai.response.model": "scripted",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.seed": 7,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.choice.count": 1,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert plain(completion)["gen_ai.request.stream"] is True
    assert f'"trace":"{chat.trace_id.hex()}"' in log
    assert SECRET not in log
    assert SECRET.encode() not in b"".join(collector.bodies)
