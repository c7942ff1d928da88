"""An engine that breaks under an answer: every protocol says so in its own words, and the next answer is as ever."""

from collections.abc import Iterator

import grpc
import pytest

from pilothouse.smoke import grpc_client
from pilothouse.smoke.answers import Question
from pilothouse.smoke.checks import Target
from support.serve_scripted import BREAKS
from support.server import served

MESSAGES = [{"role": "user", "content": BREAKS}]
TENSOR = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [BREAKS]}
SENTENCE = "the engine failed; the reason is in the server's log"
OPENAI = {"error": {"message": SENTENCE, "type": "server_error", "param": None, "code": "engine_failed"}}
MLFLOW = {"error_code": "INTERNAL_ERROR", "message": SENTENCE}
V2 = {"error": SENTENCE}


@pytest.fixture(scope="module")
def broken() -> Iterator[Target]:
    """A server whose engine breaks under a certain prompt."""
    with served(scripted=True) as server:
        yield Target(server.client, server.model, server.grpc)


@pytest.fixture(autouse=True)
def mended(broken: Target) -> None:
    """Each test begins with an engine that was made anew."""
    for _ in range(1000):
        if broken.client.get("/v2/health/ready").status == 200:
            return
    pytest.fail("the engine did not come back")


CASES = {
    "/v1/chat/completions": ({"messages": MESSAGES}, OPENAI),
    "/v1/completions": ({"prompt": BREAKS}, OPENAI),
    "/v1/responses": ({"input": BREAKS}, OPENAI),
    "/invocations": ({"messages": MESSAGES}, MLFLOW),
    "/v2/models/scripted/infer": ({"inputs": [TENSOR]}, V2),
    "/v2/models/scripted/generate": ({"text_input": BREAKS}, V2),
}
STREAMS = {
    "/v1/chat/completions": ({"messages": MESSAGES, "stream": True}, OPENAI, True),
    "/v1/completions": ({"prompt": BREAKS, "stream": True}, OPENAI, True),
    "/invocations": ({"messages": MESSAGES, "stream": True}, MLFLOW, True),
    "/v2/models/scripted/infer_stream": ({"inputs": [TENSOR]}, V2, False),
    "/v2/models/scripted/generate_stream": ({"text_input": BREAKS}, V2, False),
}


@pytest.mark.parametrize("path", CASES)
def test_broken_answer_is_500(broken: Target, path: str) -> None:
    """With a fixed sentence, and nothing of the reason."""
    body, expected = CASES[path]

    reply = broken.client.post(path, body)

    assert (reply.status, reply.json) == (500, expected)


@pytest.mark.parametrize("path", STREAMS)
def test_error_after_the_first_byte_is_the_last_event(broken: Target, path: str) -> None:
    """One error event, then OpenAI's word for the end where it has one."""
    body, expected, done = STREAMS[path]

    events = list(broken.client.events(path, body))

    if done:
        assert events.pop().done
    assert len(events) > 1
    assert events[-1].json == expected
    assert all("error" not in event.json and "error_code" not in event.json for event in events[:-1])


def test_error_after_the_first_byte_fails_a_response(broken: Target) -> None:
    """One error event by its name, then the response with its status; nothing after it, for OpenAI has no other word for the end here."""
    events = [event.json for event in broken.client.events("/v1/responses", {"input": BREAKS, "stream": True})]
    *said, error, failed = events

    assert "response.output_text.delta" in {event["type"] for event in said}
    assert (error["type"], error["error"]) == ("error", OPENAI["error"])
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": SENTENCE}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_broken_grpc_call_is_internal(broken: Target) -> None:
    """The unary call's status; the stream's message."""
    question = Question(prompt=BREAKS)
    assert broken.grpc is not None
    with grpc_client.connect(broken.grpc) as calls:
        with pytest.raises(grpc.RpcError) as raised:
            calls.infer(broken.model, question)
        for _ in range(1000):
            if calls.call("ServerReady", {}).ready:
                break
        streamed = calls.stream_call(calls.request(broken.model, question))

    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INTERNAL, SENTENCE)
    assert len(streamed) > 1
    assert streamed[-1].error_message == SENTENCE


def test_next_answer_is_as_ever(broken: Target) -> None:
    """A new engine took the broken one's place."""
    body = {"prompt": "Hello", "temperature": 0, "max_tokens": 5}
    before = broken.client.post("/v1/completions", body).json["choices"]

    assert broken.client.post("/v1/completions", {"prompt": BREAKS}).status == 500
    for _ in range(1000):
        if broken.client.get("/v2/health/ready").status == 200:
            break
    assert broken.client.post("/v1/completions", body).json["choices"] == before
