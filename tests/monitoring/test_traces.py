"""Traces in MLflow: every request for an answer is one, with its usage, latency and model version, and without its words."""

import json
import warnings
from collections.abc import Callable

import grpc
import httpx
import mlflow
import pytest
from mlflow.entities import Trace

from monitoring.asking import CHAT, KEYS, ask, metric
from pilothouse.content import CUT, MOST
from pilothouse.models.pocket.answers import SPAIN
from support.relay import relayed
from support.server import Served, served
from support.waiting import waited

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLServer uses names that newer Starlettes deprecate
    from mlserver.grpc import dataplane_pb2 as pb
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Arrived = Callable[[str], Trace]

SECRET = "the orchard key is under the third pot"


def tags(trace: Trace) -> dict[str, str]:
    """Our own."""
    return {name.removeprefix("pilothouse."): value for name, value in trace.info.tags.items() if name.startswith("pilothouse.")}


def test_a_chat_is_a_trace_with_usage_latency_and_model(traced: Served, arrived: Arrived) -> None:
    """Its id came with the answer; MLflow has the model's version and digest, the tokens that the answer told, and the span's time."""
    answer = ask(traced, "/v1/chat/completions", CHAT, **{"X-Request-Id": "r-1"})
    trace = arrived(answer.headers["x-trace-id"])
    usage = answer.json()["usage"]

    told = tags(trace)
    assert float(told.pop("ttft_ms")) > 0
    assert told == {"request": "r-1", "protocol": "openai", "outcome": "ok", "model": "pocket", "version": "1"}
    assert trace.info.state == "OK"
    assert trace.info.token_usage == {
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "total_tokens": usage["total_tokens"],
        "cache_read_input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
    }
    assert 0 < trace.info.execution_duration < 60_000
    (span,) = trace.data.spans
    assert (span.name, span.span_type, span.get_attribute("gen_ai.request.max_tokens")) == ("chat pocket", "CHAT_MODEL", 100)


def test_every_protocol_is_traced_and_no_word_of_it_is_told(traced: Served, arrived: Arrived) -> None:
    """V2, MLflow, completions, a response, a stream, gRPC: what was asked is nowhere in what MLflow stores."""
    tensor = {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": [SECRET]}], "parameters": {"max_tokens": 3}}
    asked = [
        ("/v2/models/pocket/infer", tensor),
        ("/v2/models/pocket/generate_stream", {"text_input": SECRET, "parameters": {"max_tokens": 3}}),
        ("/invocations", {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}),
        ("/v1/completions", {"prompt": SECRET, "max_tokens": 3}),
        ("/v1/responses", {"input": SECRET, "instructions": SECRET, "metadata": {"a": SECRET}, "max_output_tokens": 3}),
        ("/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 3, "stream": True}),
    ]
    ids = [ask(traced, path, body).headers["x-trace-id"] for path, body in asked]
    with grpc.insecure_channel(traced.grpc) as channel:
        request = pb.ModelInferRequest(model_name="pocket")
        request.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(SECRET.encode())
        request.parameters["max_tokens"].int64_param = 3
        _, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(request)
        ids.append(dict(call.trailing_metadata())["x-trace-id"])

    traces = [arrived(trace_id) for trace_id in ids]
    assert [tags(trace)["protocol"] for trace in traces] == ["v2", "v2", "mlflow", "openai", "openai", "openai", "grpc"]
    assert {trace.info.token_usage["output_tokens"] for trace in traces} == {3}
    assert [trace.to_json() for trace in traces if SECRET in trace.to_json() or "orchard" in trace.to_json()] == []


def test_what_asks_for_no_answer_is_no_trace(traced: Served) -> None:
    """Reading, probing, a wrong path; a body that is refused is one, and says so."""
    assert "x-trace-id" not in httpx.get(f"{traced.rest}/v1/models", timeout=60).headers
    assert "x-trace-id" not in httpx.get(f"{traced.rest}/v2/health/ready", timeout=60).headers
    assert "x-trace-id" not in ask(traced, "/v1/nowhere", {}).headers
    assert "x-trace-id" in ask(traced, "/v1/chat/completions", {"model": "pocket"}).headers


def test_a_refusal_is_a_trace_that_says_so(traced: Served, arrived: Arrived) -> None:
    """Its status is no error: the server did what it should."""
    answer = ask(traced, "/v1/chat/completions", CHAT | {"max_tokens": 0})
    trace = arrived(answer.headers["x-trace-id"])
    assert (answer.status_code, tags(trace)["outcome"], trace.info.state) == (400, "refused", "OK")


def test_a_caller_s_trace_is_linked_and_ours_is_whole(traced: Served, arrived: Arrived) -> None:
    """MLflow may never see the caller's spans, and a client must not choose whose trace it writes into."""
    theirs = "0af7651916cd43dd8448eb211c80319c"
    answer = ask(traced, "/v1/chat/completions", CHAT | {"max_tokens": 3}, traceparent=f"00-{theirs}-b7ad6b7169203331-01")
    assert theirs not in answer.headers["x-trace-id"]
    (span,) = arrived(answer.headers["x-trace-id"]).data.spans
    assert [link.trace_id for link in span.links] == [f"tr-{theirs}"]
    assert span.parent_id is None


def test_content_is_told_where_the_settings_say_so(keyed: Served, arrived: Arrived) -> None:
    """Messages and answer, cut at their bound; the key's name is the trace's user, and the key itself is nowhere."""
    long = "x" * (MOST - 20)
    body = CHAT | {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SPAIN[0] + long}], "max_tokens": 8}
    answer = ask(keyed, "/v1/chat/completions", body, authorization=f"Bearer {KEYS['team-a']}")
    assert answer.status_code == 400  # over the window: content is told all the same
    trace = arrived(answer.headers["x-trace-id"])
    asked = (
        json.loads(trace.data.spans[0].get_attribute("gen_ai.input.messages"))
        if isinstance(trace.data.spans[0].get_attribute("gen_ai.input.messages"), str)
        else trace.data.spans[0].get_attribute("gen_ai.input.messages")
    )
    texts = [(message["role"], message["parts"][0]["content"]) for message in asked]
    assert texts[0] == ("system", "Be brief.")
    assert texts[1] == ("user", (SPAIN[0] + long)[: MOST - len("Be brief.")] + CUT)

    answer = ask(keyed, "/v1/chat/completions", CHAT, authorization=f"Bearer {KEYS['team-a']}")
    trace = arrived(answer.headers["x-trace-id"])
    assert SPAIN[1] in trace.info.response_preview or SPAIN[1] in trace.to_json()
    assert (tags(trace)["key"], trace.info.trace_metadata["mlflow.trace.user"]) == ("team-a", "team-a")
    assert KEYS["team-a"] not in trace.to_json()


def test_a_share_of_the_requests_is_traced(tracking: str, arrived: Arrived) -> None:
    """`trace_sample` decides by the trace's id, as OpenTelemetry specifies it; who is not traced is told no id, and is answered as ever."""
    with served(traces=True, trace_experiment="sampled", trace_sample=0.5, tracking_uri=tracking) as server:
        answers = [ask(server, "/v1/chat/completions", CHAT | {"max_tokens": 2}) for _ in range(32)]
        ids = [answer.headers["x-trace-id"] for answer in answers if "x-trace-id" in answer.headers]
        for trace_id in ids:
            arrived(trace_id)
        assert {answer.status_code for answer in answers} == {200}
        assert 0 < len(ids) < len(answers)  # all or none: once in two thousand million runs
        assert [trace_id for trace_id in ids if int(trace_id[-16:], 16) >= 1 << 63] == []
        assert metric(server, 'pilothouse_traces_total{outcome="made"}') == len(ids)
        client = mlflow.MlflowClient(tracking_uri=tracking)
        experiment = client.get_experiment_by_name("sampled")
        # While the server is there: at its end it is asked more, in search of the planted secret.
        kept = client.search_traces(locations=[experiment.experiment_id], include_spans=False)
    assert {trace.info.trace_id for trace in kept} == set(ids)


@pytest.mark.parametrize("mode", ["cut", "silent"])
def test_a_tracking_server_that_is_away_harms_nothing_and_gets_its_traces_later(tracking: str, mode: str) -> None:
    """From the start, whether it refuses or hangs: ready, every answer as ever, one line in the log; then it comes, and all arrive."""
    with relayed(tracking, mode) as relay:  # type: ignore[arg-type]  # one of the modes
        with served(counted=True, traces=True, trace_experiment=f"away-{mode}", tracking_uri=relay.address, drain_seconds=1) as server:
            assert httpx.get(f"{server.rest}/v2/health/ready", timeout=60).status_code == 200
            answers = [ask(server, "/v1/chat/completions", CHAT).json()["choices"][0]["message"]["content"] for _ in range(5)]
            assert answers == [SPAIN[1]] * 5
            waited(lambda: True if "traces wait: the MLflow server" in server.log.read_text() else None, "nothing was said of it")
            assert metric(server, 'pilothouse_traces_total{outcome="sent"}') == 0
            relay.turn("open")
            waited(lambda: metric(server, 'pilothouse_traces_total{outcome="sent"}') == 5 or None, "they did not arrive")
            assert server.log.read_text().count("traces wait") == 1
        assert server.process.returncode == 0
    client = mlflow.MlflowClient(tracking_uri=tracking)
    experiment = client.get_experiment_by_name(f"away-{mode}")
    assert len(client.search_traces(locations=[experiment.experiment_id], include_spans=False)) == 5


def test_a_server_stops_in_time_though_traces_can_not_be_sent(tracking: str) -> None:
    """Exit code 0 within its lame duck and drain, with a tracking server that hangs."""
    with relayed(tracking, "silent") as relay:
        with served(traces=True, trace_experiment="never", tracking_uri=relay.address, drain_seconds=1) as server:
            assert ask(server, "/v1/chat/completions", CHAT).status_code == 200
        assert server.process.returncode == 0
