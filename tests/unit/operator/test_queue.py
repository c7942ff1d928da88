"""Each key at most once at a time, the earliest wish wins, failures wait longer; and a webhook is only heard when it is signed."""

import asyncio
import base64
import hashlib
import hmac

import pytest

from pilothouse.operator.queue import MOST, Queue
from pilothouse.operator.spec import KIND, OWNER, Key
from pilothouse.operator.store import Store
from pilothouse.operator.web import signed

A, B = Key("n", "a"), Key("n", "b")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> Queue:
    return Queue(clock)


async def test_key_is_worked_on_once_at_a_time(queue: Queue) -> None:
    """A wish that comes meanwhile is fulfilled afterwards."""
    queue.add(A)
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(queue.get(), 0.02)

    queue.done(A, None)

    assert await queue.get() == A
    queue.done(A, None)
    assert len(queue) == 0


async def test_earliest_wish_wins(queue: Queue, clock: Clock) -> None:
    """A later one never delays it."""
    queue.add(A, 50)
    queue.add(A, 10)
    queue.add(A, 90)
    queue.add(B, 20)
    clock.now = 10
    assert (queue.overdue, await queue.get()) == (1, A)
    clock.now = 20
    assert await queue.get() == B
    queue.done(A, None)
    queue.done(B, None)
    assert len(queue) == 0


async def test_failures_wait_longer_each_time(queue: Queue, clock: Clock) -> None:
    """Up to a minute; a success forgets them."""
    waits = []
    queue.add(A)
    for _ in range(9):
        assert await queue.get() == A
        queue.done(A, None, failed=True)
        waits.append(queue._due[A] - clock.now)
        clock.now = queue._due[A]

    assert all(0.8 * least <= wait <= 1.2 * least for least, wait in zip((1, 2, 4, 8, 16, 32, MOST, MOST, MOST), waits, strict=True))


async def test_waiting_worker_is_woken_by_an_earlier_wish(queue: Queue) -> None:
    """Nobody sleeps through it."""
    queue.add(A, 3600)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(B)

    assert await asyncio.wait_for(waiting, 5) == B


def sign(secret: str, body: bytes, timestamp: str) -> str:
    made = hmac.new(secret.encode(), f"id.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(made).decode()


def test_webhook_is_signed_and_fresh() -> None:
    """As MLflow signs: the delivery's id, its time and its body."""
    good = sign("s3cret", b"{}", "1000")

    assert signed("s3cret", "id", "1000", b"{}", good, 1010.0)
    assert not signed("other", "id", "1000", b"{}", good, 1010.0)
    assert not signed("s3cret", "id", "1000", b"{ }", good, 1010.0)
    assert not signed("s3cret", "id", "1000", b"{}", good, 2000.0)
    assert not signed("s3cret", "id", "soon", b"{}", good, 1010.0)
    assert not signed("s3cret", "id", "1000", b"{}", "", 1010.0)


def test_webhook_signature_is_mlflows_own() -> None:
    """Held against the function that MLflow signs by."""
    delivery = pytest.importorskip("mlflow.webhooks.delivery")

    assert sign("s3cret", b'{"a": 1}', "1000") == delivery._generate_hmac_signature("s3cret", "id", "1000", '{"a": 1}')


def body(version: int, uid: str = "1", name: str = "phi3", **labels: str) -> dict[str, object]:
    return {"metadata": {"namespace": "n", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}}


def test_store_keeps_the_newest_whatever_comes_late() -> None:
    """An answer of the API server may overtake the watch."""
    store, key = Store(), Key("n", "phi3")
    for version in (5, 3):
        store.put(KIND, body(version))
        store.put("Service", body(version, name="web", **{OWNER: "phi3"}))

    assert store.model(key) == {**body(5), "kind": KIND}
    assert [b["metadata"]["resourceVersion"] for b in store.all(key)] == ["5"]
    assert store.put("Service", body(9)) is None, "nobody's"

    store.put("Service", body(2, uid="2", name="web", **{OWNER: "phi3"}))
    store.drop("Service", body(5, name="web", **{OWNER: "phi3"}))
    found = store.get(key, "Service", "web")
    assert found is not None, "the end of the one before is not the end of this one"
    assert found["metadata"]["uid"] == "2"
