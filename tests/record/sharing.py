"""Requests that meet: parallel workers, adaptive batching, the response cache: D19 to D22, D24, E2, E3."""

import asyncio
import signal
from typing import Any

import httpx

from record import calls
from record.case import Seen, case
from record.hosts import Host
from record.sides import Ours, Side, Stock

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": calls.STEPS, "stream": True}


async def working(side: Side) -> Host:
    """The host that computes where its operator would let it: in MLServer's worker, in our engine."""
    return await side.once("working", side.workers) if isinstance(side, Stock) else await side.plain()


async def in_pieces(side: Side, verb: str, content: Any) -> str:
    """How many events a stream of 16 tokens has: one, or about one a token (a token may end within a character)."""
    pieces: list[bytes] = []
    how = await calls.collect(await working(side), calls.infer(verb=verb), content, into=pieces)
    count = len(calls.events(b"".join(pieces).decode()))
    if how != "ended":
        return how
    return "1 event" if count == 1 else "an event a token" if count > calls.STEPS // 2 else f"{count} events"


@case("D19", "With parallel workers a stream is one answer in disguise", {"infer_stream, 16 tokens": ("1 event", "an event a token")})
async def d19(side: Side) -> Seen:
    return {"infer_stream, 16 tokens": await in_pieces(side, "infer_stream", calls.body())}


@case(
    "E2",
    "`generate_stream` with the default's one worker answers with `predict`, and says nothing of it",
    {"generate_stream, 16 tokens": ("1 event", "an event a token")},
)
async def e2(side: Side) -> Seen:
    content = calls.body() if side.stock else {"text_input": "hello", "parameters": {"max_tokens": calls.STEPS}}
    return {"generate_stream, 16 tokens": await in_pieces(side, "generate_stream", content)}


async def chatting(host: Host, model: str = "scripted") -> str:
    """A streamed chat over OpenAI's route: a custom handler, as both hosts call it."""
    try:
        reply = await calls.post(host, "/v1/chat/completions", {**CHAT, "model": model}, timeout=8)
    except httpx.TimeoutException:
        return "no answer"
    return "a stream" if reply.status_code == 200 and calls.events(reply.text)[-1] == "[DONE]" else calls.form(reply)


@case(
    "D20",
    "With parallel workers a custom handler that takes a Request hangs for ever; without, the first of two models takes the path for both",
    {
        "/v1/chat/completions, with a worker": ("no answer", "a stream"),
        "asked for the other of two models": ("the first one answers", '404 {"error"}'),
    },
)
async def d20(side: Side) -> Seen:
    host = await side.plain()
    other = "the first one answers"
    for model in ("scripted", "spare"):
        said = await chatting(host, model)
        other = other if said == "a stream" else said
    return {"/v1/chat/completions, with a worker": await hung(side), "asked for the other of two models": other}


async def hung(side: Side) -> str:
    async def ask() -> str:
        return await chatting(await working(side))

    return await side.once("hung", ask)


@case(
    "E3",
    "Such a hanging request also keeps the process from ending; without workers the same handler streams",
    {
        "with a worker": ("no answer", "a stream"),
        "SIGTERM then": ("still running", "exit code 0"),
        "without workers": ("a stream", "a stream"),
    },
)
async def e3(side: Side) -> Seen:
    without = await chatting(await side.plain())
    with_ = await hung(side)
    host = await working(side) if side.stock else await side.steady()
    unfinished = asyncio.create_task(ask_on(host))
    async with asyncio.timeout(10):
        await unfinished if not side.stock else await asyncio.wait({unfinished}, timeout=1)
    host.signal(signal.SIGTERM)
    end = await host.ended(15)
    host.end()
    await asyncio.wait({unfinished})
    return {"with a worker": with_, "SIGTERM then": end, "without workers": without}


async def ask_on(host: Host) -> None:
    """A chat that nobody reads the end of."""
    try:
        await calls.post(host, "/v1/chat/completions", CHAT)
    except httpx.TransportError:
        return


@case(
    "D24",
    "With workers it writes into its working directory",
    {"the working directory after requests": (".envs, .metrics", "empty"), "without workers": ("empty", "empty")},
)
async def d24(side: Side) -> Seen:
    host, without = await working(side), await side.plain()
    await calls.post(without, calls.infer(), calls.body())

    def left(at: Host) -> str:
        return ", ".join(sorted(path.name for path in at.folder.iterdir())) or "empty"

    return {"the working directory after requests": left(host), "without workers": left(without)}


async def together(host: Host, model: str, *contents: Any) -> list[str]:
    """Requests that are sent at once, and how many tokens each answer has."""
    replies = await asyncio.gather(*[calls.post(host, calls.infer(model), content) for content in contents])
    return [
        str(calls.counted(reply)) if reply.status_code == 200 and reply.json()["outputs"][0]["data"] else "empty 200" for reply in replies
    ]


@case(
    "D21",
    "Adaptive batching joins strangers' requests: one's parameters rule the other, one's deadline hangs the other",
    {
        "max_tokens 7 and 30 at once": ("both get the same number of tokens", "7 and 30 tokens"),
        "a runtime that returns too few rows": ("200 with an empty answer for one", "one answer each"),
        "a neighbour's gRPC deadline": ("no answer until its own deadline", "OK"),
        "turned on": ("accepted", "refused by name at the start"),
    },
)
async def d21(side: Side) -> Seen:
    host = await side.plain()
    model = "batched" if side.stock else "scripted"
    few, many = await together(host, model, calls.body(max_tokens=7), calls.body(max_tokens=30))
    rows = await together(host, model, calls.body("drop"), calls.body("drop"))
    async with calls.stubs(host) as stub:
        # The first one's deadline passes while its batch waits for a second.
        await calls.code(stub.ModelInfer(calls.message(model=model), timeout=1))
        neighbour = await calls.code(stub.ModelInfer(calls.message(model=model), timeout=8))
    return {
        "max_tokens 7 and 30 at once": "both get the same number of tokens" if few == many else f"{few} and {many} tokens",
        "a runtime that returns too few rows": "200 with an empty answer for one" if "empty 200" in rows else "one answer each",
        "a neighbour's gRPC deadline": "no answer until its own deadline" if neighbour == "DEADLINE_EXCEEDED" else neighbour,
        "turned on": await refused(side, "max_batch_size", MLSERVER_MODEL_MAX_BATCH_SIZE="8"),
    }


async def refused(side: Side, name: str, **environment: str) -> str:
    """What ours does with a setting of MLServer's that it can't honour; stock runs with it."""
    if not isinstance(side, Ours):
        return "accepted"
    host = await side.start("refused", wait=False, environment=environment)
    end = await host.ended(60)
    named = name in host.log.read_text().lower()
    return "refused by name at the start" if (end, named) == ("exit code 2", True) else f"{end}, {host.log.read_text()[-300:]}"


@case(
    "D22",
    "The response cache gives one model's answer for another's: its key lacks the model's name",
    {
        "the same request to a second model": ("the first model's answer", "no such cache"),
        "turned on": ("accepted", "refused by name at the start"),
    },
)
async def d22(side: Side) -> Seen:
    said = "no such cache"
    if isinstance(side, Stock):
        host = await side.second()
        headers = {"User-Agent": "record"}
        for model in ("scripted", "spare"):
            reply = await calls.post(host, calls.infer(model), {**calls.body(), "id": "same"}, headers=headers)
        said = "the first model's answer" if calls.answer(reply).startswith("scripted") else "its own answer"
    return {"the same request to a second model": said, "turned on": await refused(side, "cache_enabled", MLSERVER_CACHE_ENABLED="true")}
