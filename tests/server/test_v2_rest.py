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
