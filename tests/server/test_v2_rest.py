"""V2 over REST, as a client sees it."""

import orjson

from server.running import running

INFER = "/v2/models/toy/infer"
GENERATE = "/v2/models/toy/generate"


def tensor(*texts: str, **more: object) -> dict[str, object]:
    """An inference request of these prompts."""
    return {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts)}], **more}


def output(*texts: str) -> dict[str, object]:
    """The toy model's answer to them."""
    about = {"finish_reason": "stop", "completion_tokens": len(texts)}
    return {"name": "output", "datatype": "BYTES", "shape": [len(texts)], "data": list(texts), "parameters": about}


def events(text: str) -> list[object]:
    """The JSON of every server-sent event."""
    return [orjson.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-1]]


async def test_infer_answers_every_row_of_a_tensor() -> None:
    """A BYTES tensor goes in, one output row for each prompt comes out, with the request's id."""
    async with running() as run:
        reply = await run.client.post(INFER, json=tensor("hello you", "and me", id="a"))

        assert reply.status_code == 200
        assert reply.headers["content-type"] == "application/json"
        assert reply.json() == {"model_name": "toy", "model_version": "3", "id": "a", "outputs": [output("hello you", "and me")]}


async def test_generate_takes_both_bodies() -> None:
    """`generate` is `infer` for an inference request, and answers Triton's text form in kind."""
    async with running() as run:
        as_tensor = await run.client.post(GENERATE, json=tensor("hi", id="a"))
        as_text = await run.client.post(GENERATE, json={"text_input": "hi", "id": "a", "parameters": {"stream": False}})

        assert as_tensor.json()["outputs"] == [output("hi")]
        assert as_text.json() == {"model_name": "toy", "model_version": "3", "id": "a", "text_output": "hi"}


async def test_a_version_is_part_of_the_path() -> None:
    """The model's version answers as the model does, another is 404 and named."""
    async with running() as run:
        known = await run.client.post("/v2/models/toy/versions/3/infer", json=tensor("hi"))
        unknown = await run.client.post("/v2/models/toy/versions/4/infer", json=tensor("hi"))

        assert known.json()["outputs"] == [output("hi")]
        assert (unknown.status_code, unknown.json()) == (404, {"error": "model 'toy' has no version '4'"})


async def test_a_stream_is_one_event_for_each_response() -> None:
    """infer_stream and generate_stream send server-sent events, in the form of the request; nothing else is in them."""
    async with running() as run:
        as_tensor = await run.client.post("/v2/models/toy/infer_stream", json=tensor("hello you", id="a"))
        as_text = await run.client.post("/v2/models/toy/generate_stream", json={"text_input": "hello you"})

        assert as_tensor.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert as_tensor.headers["cache-control"] == "no-store"
        assert [event["outputs"] for event in events(as_tensor.text)] == [[output("hello ")], [output("you ")]]
        assert [event["text_output"] for event in events(as_text.text)] == ["hello ", "you "]


async def test_a_refusal_before_the_first_event_has_a_status_of_its_own() -> None:
    """A stream whose first item fails is a plain error, not a 200."""
    async with running() as run:
        reply = await run.client.post("/v2/models/toy/infer_stream", json=tensor("fail overloaded"))

        assert (reply.status_code, reply.json()) == (429, {"error": "the queue is full"})
        assert reply.headers["retry-after"] == "3"


async def test_an_error_after_the_first_event_is_the_last_one() -> None:
    """A stream that breaks says so in its last event, and ends as HTTP wants it; a foreign exception's text is kept back."""
    async with running() as run:
        ours = await run.client.post("/v2/models/toy/infer_stream", json=tensor("late deadline"))
        foreign = await run.client.post("/v2/models/toy/generate_stream", json={"text_input": "late foreign"})

        assert events(ours.text)[1:] == [{"error": "it took too long"}]
        assert events(foreign.text)[1:] == [{"error": "internal error; the reason is in the server's log"}]


async def test_binary_tensors_go_in_and_out() -> None:
    """The binary tensor extension: raw bytes after the JSON header, both ways."""
    async with running() as run:
        raw = b"\x02\x00\x00\x00hi"
        head = {"name": "prompt", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
        header = orjson.dumps({"inputs": [head], "outputs": [{"name": "output", "parameters": {"binary_data": True}}]})
        sent = {"Inference-Header-Content-Length": str(len(header))}
        reply = await run.client.post(INFER, content=header + raw, headers=sent)

        length = int(reply.headers["inference-header-content-length"])
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.content[length:] == raw
        assert orjson.loads(reply.content[:length])["outputs"][0]["parameters"]["binary_data_size"] == len(raw)


async def test_metadata_names_the_server_and_the_model() -> None:
    """/v2 tells the extensions, the model's path its tensors; both paths of /v2 answer."""
    async with running() as run:
        server, slash = await run.client.get("/v2"), await run.client.get("/v2/")
        model = await run.client.get("/v2/models/toy")

        assert server.json() == slash.json()
        assert server.json()["extensions"] == ["binary_tensor_data", "generate", "streaming"]
        assert model.json() == {
            "name": "toy",
            "versions": [],
            "platform": "",
            "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [],
            "parameters": {},
        }


async def test_an_unknown_model_is_answered_before_the_body_is_judged() -> None:
    """404 names the model, whatever the body is."""
    async with running() as run:
        for path in ("infer", "generate", "infer_stream", "generate_stream"):
            reply = await run.client.post(f"/v2/models/ghost/{path}", content=b"{")

            assert (reply.status_code, reply.json()) == (404, {"error": "model 'ghost' is not served here; served: toy"})
