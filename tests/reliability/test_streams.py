"""What streams promise under load: the same text as unary, one end, nobody else's words; and a client that hangs up costs nothing."""

import asyncio
import random

import pytest

from pilothouse.chat.tokenizer import Tokenizer
from pilothouse.engines.scripted import script
from pilothouse.models import pocket
from reliability.clients import KINDS, Clients, Wire, gauge, until
from reliability.conftest import FULL
from support.server import Served

AT_ONCE = 1000 if FULL else 240
HANGING_UP = 200 if FULL else 40
WORDS = ["model", "serve", "token", "batch", "stream", "engine", "answer", "question", "prompt", "cache"]


@pytest.fixture(scope="module")
def oracle() -> Tokenizer:
    """The served model's own tokenizer: what the scripted engine says is known beforehand."""
    return Tokenizer.from_folder(pocket.FOLDER)


def expected(tokenizer: Tokenizer, prompt: str, tokens: int) -> str:
    """The scripted engine's answer."""
    text = tokenizer.stream()
    ids = script(tokenizer.encode(prompt), tokens, tokenizer.size)
    return "".join([text.step(token) for token in ids]) + text.finish()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 16])
async def test_a_stream_joined_is_the_unary_answer(asks: Clients, oracle: Tokenizer, kind: str, tokens: int) -> None:
    """With exactly one finish reason and the same count."""
    told = await asks.ask(kind, "one and the same", tokens)
    assert (told.status in (200, "OK"), told.text, told.finishes, told.tokens) == (
        True,
        expected(oracle, "one and the same", tokens),
        ["length"],
        tokens,
    )


async def test_nobody_gets_anothers_answer(asks: Clients, oracle: Tokenizer) -> None:
    """All at once, each with a prompt, a length and a way of its own: every text is the one its request has alone."""
    draw = random.Random(7)
    requests = [
        (draw.choice(KINDS), f"{number} {' '.join(draw.choices(WORDS, k=draw.randint(1, 12)))}", draw.randint(1, 16))
        for number in range(AT_ONCE)
    ]

    answers = await asyncio.gather(*[asks.ask(kind, prompt, tokens) for kind, prompt, tokens in requests])

    wrong = [
        (request, told)
        for request, told in zip(requests, answers, strict=True)
        if not told.whole or (told.text, told.tokens) != (expected(oracle, *request[1:]), request[2])
    ]
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
async def test_clients_that_hang_up_free_their_rows(slow: Served, asks_slow: Clients, kind: str) -> None:
    """Running ones and waiting ones, however they asked: the gauges are back at zero before their answers could have ended, and the next
    request is answered."""
    answer = 3000  # tokens: thirty seconds
    if kind in ("unary", "sse"):
        wires = [await Wire.open(asks_slow.rest) for _ in range(HANGING_UP)]
        body = f'{{"prompt": "hello", "stream": {str(kind == "sse").lower()}, "max_tokens": {answer}, "ignore_eos": true}}'.encode()
        for wire in wires:
            await wire.post("/v1/completions", body)
        leave = [wire.close for wire in wires]
    else:
        tasks = [asyncio.create_task(asks_slow.ask(kind, "hello", answer)) for _ in range(HANGING_UP)]
        leave = [task.cancel for task in tasks]  # type: ignore[misc]  # each cancels

    async def inside() -> int:
        return int(await gauge(slow.metrics, "pilothouse_requests_running") + await gauge(slow.metrics, "pilothouse_requests_waiting"))

    async def all_in() -> bool:
        return await inside() == HANGING_UP

    async def all_out() -> bool:
        return await inside() == 0

    await until(all_in)
    for one in leave:
        one()
    took = await until(all_out, seconds=15)
    print(f"{HANGING_UP} clients of kind {kind} hung up: rows free after {took:.2f} s")
    if kind.startswith("grpc"):
        await asyncio.wait(tasks)
    assert (await asks_slow.ask(kind, "next", 4)).whole


async def test_what_is_asked_is_what_is_answered_to(asks: Clients) -> None:
    """Ids too: each answer carries its own request's."""

    async def one(number: int) -> bool:
        wire = await Wire.open(asks.rest)
        await wire.post("/v1/completions", b'{"prompt": "x", "max_tokens": 1}', f"X-Request-Id: mine-{number}")
        reply = await wire.reply()
        wire.close()
        return reply.headers["x-request-id"] == f"mine-{number}"

    assert all(await asyncio.gather(*[one(number) for number in range(100)]))
