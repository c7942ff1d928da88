"""More clients than places: each is answered whole or refused at once and told when to come back, and nobody's share is another's."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from reliability.clients import KINDS, Clients, gauge, gauges, until
from support.server import Served, served

ROWS, QUEUE = 4, 12
GREEDY, MODEST = "greedy-key-1234", "modest-key-1234"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Four rows, twelve places, two keys."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"greedy:{GREEDY}\nmodest:{MODEST}\n")
    steps = {"SCRIPTED_STEP_SECONDS": "0.01"}
    with served(
        scripted=True, environment=steps, rows=ROWS, queue=QUEUE, queue_seconds=30, queue_tokens=2000, api_keys_file=keys
    ) as server:
        yield server


@pytest.fixture
async def greedy(crowded: Served) -> AsyncIterator[Clients]:
    async with Clients(crowded.rest, crowded.grpc, crowded.model, {"Authorization": f"Bearer {GREEDY}"}) as clients:
        yield clients


@pytest.fixture
async def modest(crowded: Served) -> AsyncIterator[Clients]:
    async with Clients(crowded.rest, crowded.grpc, crowded.model, {"Authorization": f"Bearer {MODEST}"}) as clients:
        yield clients


async def prompt_tokens(server: Served) -> float:
    return await gauge(server.metrics, 'pilothouse_tokens_total{kind="prompt"}')


async def empty(server: Served) -> bool:
    return not any(await gauges(server.metrics, "pilothouse_requests_running", "pilothouse_requests_waiting"))


async def test_every_answer_is_whole_or_a_typed_refusal(crowded: Served, greedy: Clients, modest: Clients) -> None:
    """Two hundred clients of all protocols and two keys: 200 and whole, or 429 with Retry-After and not a token computed for it."""
    before = await prompt_tokens(crowded)
    told = await asyncio.gather(*[(greedy if n % 2 else modest).ask(KINDS[n // 2 % 4], "one", 20) for n in range(200)])

    whole = [answer for answer in told if answer.whole]
    assert all(answer.refused for answer in told if not answer.whole)
    assert {answer.status for answer in told} <= {200, "OK", 429, "RESOURCE_EXHAUSTED"}  # whose places are taken first is nobody's promise
    assert ROWS + QUEUE // 2 <= len(whole) < 200
    assert {(answer.tokens, tuple(answer.finishes)) for answer in whole} == {(20, ("length",))}
    await until(lambda: empty(crowded))
    one = await prompt_tokens(crowded)
    await modest.ask("unary", "one", 20)
    assert (one - before) % (await prompt_tokens(crowded) - one) == 0
    assert (one - before) // (await prompt_tokens(crowded) - one) == len(whole)


async def test_a_greedy_key_leaves_room_and_turns_to_others(crowded: Served, greedy: Clients, modest: Clients) -> None:
    """Forty requests of one key at once: the other key's next ones are taken, and answered before the greedy key's queue is through."""
    order: list[str] = []

    async def one(name: str, clients: Clients) -> bool:
        told = await clients.ask("sse", "long", 60)
        if told.whole:
            order.append(name)
        return told.whole

    first = [asyncio.create_task(one("greedy", greedy)) for _ in range(40)]

    async def filled() -> bool:
        return sum(task.done() for task in first) >= 40 - ROWS - QUEUE

    await until(filled)
    waiting, running = await gauges(crowded.metrics, "pilothouse_requests_waiting", "pilothouse_requests_running")
    second = [asyncio.create_task(one("modest", modest)) for _ in range(2)]
    answered = Counter({True: sum(await asyncio.gather(*second))})
    await asyncio.gather(*first)

    assert waiting >= 1
    assert waiting + running <= ROWS + QUEUE * 3 / 4 + 1  # together: rows that have just ended are still inside
    assert answered[True] == 2
    assert order.index("modest") < len(order) - 4


async def test_the_queue_is_bounded_by_tokens(crowded: Served, modest: Clients) -> None:
    """Few long prompts fill it as many short ones do."""
    await until(lambda: empty(crowded))
    long = "word " * 900
    told = await asyncio.gather(*[modest.ask(KINDS[n % 4], f"{n} {long}", 30) for n in range(ROWS + 6)])

    refused = [answer.error for answer in told if not answer.whole]
    assert set(refused) == {"the queue is full (2000 prompt tokens may wait); try again later"}
    assert all(answer.refused for answer in told if not answer.whole)
    assert 1 <= len(refused) < len(told)  # how many depends on how many had their row before the others came


async def test_the_queue_is_bounded_by_time() -> None:
    """Whoever waited as long as anybody may is refused, like those who came too late; who runs is not disturbed."""
    steps = {"SCRIPTED_STEP_SECONDS": "0.02"}
    with served(scripted=True, environment=steps, rows=1, queue=4, queue_seconds=0.5) as server:
        async with Clients(server.rest, server.grpc, server.model) as clients:
            running = asyncio.create_task(clients.ask("sse", "long", 200))
            await until(lambda: _runs(server))
            told = await asyncio.gather(*[clients.ask(kind, "late", 5) for kind in KINDS])

            assert [(answer.refused, answer.error) for answer in told] == [(True, "no row became free within 0.5 s; try again later")] * 4
            assert (await running).whole


async def _runs(server: Served) -> bool:
    return await gauge(server.metrics, "pilothouse_requests_running") == 1
