"""Several generators as one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from pilothouse.merging import merged


class Source:
    """A generator whose items the test lets through one by one, and which notes its own closing."""

    def __init__(self, *items: object) -> None:
        self.items, self.closed = items, False

    async def run(self) -> AsyncGenerator[object, None]:
        try:
            for item in self.items:
                await asyncio.sleep(0)
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_every_item_comes_once_with_its_source(count: int) -> None:
    """Nothing is lost or doubled, and each source's own order is kept."""
    sources = [Source(*range(4)) for _ in range(count)]

    items = [item async for item in merged([source.run() for source in sources])]

    assert [[value for index, value in items if index == i] for i in range(count)] == [list(range(4))] * count


async def test_first_failure_is_raised_and_closes_the_others() -> None:
    """A failing source ends the whole; no other one goes on behind its back."""
    endless = Source(*range(10_000))
    failing = Source(0, ValueError("broken"))

    with pytest.raises(ValueError, match="broken"):
        async for _ in merged([endless.run(), failing.run()]):
            pass

    assert (endless.closed, failing.closed) == (True, True)


@pytest.mark.parametrize("count", [1, 3])
async def test_closing_early_closes_every_source(count: int) -> None:
    """A consumer that leaves frees all of them before it goes on."""
    sources = [Source(*range(10_000)) for _ in range(count)]

    async with aclosing(merged([source.run() for source in sources])) as items:
        async for _ in items:
            break

    assert [source.closed for source in sources if source.closed] == [True] * count
