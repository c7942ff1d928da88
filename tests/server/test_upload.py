"""Bodies on their way in: their size, their time, their coding."""

import gzip
import zlib
from collections.abc import AsyncIterator

import orjson
import pytest

from server.raw import connected
from server.running import running, until
from server.test_v2_rest import INFER, output, tensor

KIB = 1024
OVER = {"error": "the body is over 1024 bytes; send a smaller one"}


def padded(size: int) -> bytes:
    """A valid inference request of exactly `size` bytes."""
    body = b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["hi"]}]}'
    return body + b" " * (size - len(body))


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_the_limit_is_exact() -> None:
    """A body at the limit is read, one byte more is 413; so it is in chunks, whose length nobody announced."""
    async with running(max_body_bytes=KIB) as run:
        assert (await run.client.post(INFER, content=padded(KIB))).status_code == 200
        assert (await run.client.post(INFER, content=chunks(padded(KIB)[:100], padded(KIB)[100:]))).status_code == 200
        over = await run.client.post(INFER, content=padded(KIB + 1))
        assert (over.status_code, over.json(), over.headers["connection"]) == (413, OVER, "close")
        chunked = await run.client.post(INFER, content=chunks(padded(KIB), b" "))
        assert (chunked.status_code, chunked.json()) == (413, OVER)


async def test_a_body_over_the_limit_is_refused_in_the_callers_shape() -> None:
    """Custom handlers read through the same limit."""
    async with running(max_body_bytes=KIB) as run:
        openai = await run.client.post("/v1/echo", content=b"x" * 2000)
        mlflow = await run.client.post("/invocations", content=b"x" * 2000)

        assert (openai.status_code, openai.json()["error"]["code"]) == (413, "payload_too_large")
        assert (mlflow.status_code, mlflow.json()["error_code"]) == (413, "BAD_REQUEST")


async def test_a_client_still_sending_reads_its_refusal() -> None:
    """A body far over the limit is refused while it comes, and the client gets the answer and no reset."""
    async with running(max_body_bytes=KIB) as run, connected(run) as client:
        await client.post(INFER, b"x" * (3 * KIB), length=100 * KIB)
        reply = await client.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw deflate"])
async def test_compressed_bodies_are_read(encoding: str) -> None:
    """gzip and deflate, with zlib's header and without, on every route."""
    body = padded(200)
    raw = zlib.compressobj(wbits=-15)
    packed = {"gzip": gzip.compress(body), "deflate": zlib.compress(body), "raw deflate": raw.compress(body) + raw.flush()}[encoding]
    async with running() as run:
        headers = {"Content-Encoding": encoding.split()[-1]}
        assert (await run.client.post(INFER, content=packed, headers=headers)).json()["outputs"] == [output("hi")]
        assert (await run.client.post("/v1/echo", content=packed, headers=headers)).content == body


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_never_inflated(encoding: str) -> None:
    """What inflates past the limit is 413, however small it came; no more than the limit is ever made of it."""
    bomb = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](b"\0" * (KIB * KIB))
    async with running(max_body_bytes=64 * KIB) as run:
        reply = await run.client.post(INFER, content=bomb, headers={"Content-Encoding": encoding})

        assert len(bomb) < 2 * KIB
        assert (reply.status_code, reply.json()) == (413, {"error": f"the body is over {64 * KIB} bytes inflated; send a smaller one"})


async def test_broken_and_unknown_codings_are_named() -> None:
    """Neither is a server error."""
    async with running() as run:
        packed = gzip.compress(padded(200))
        broken = await run.client.post(INFER, content=b"not gzip", headers={"Content-Encoding": "gzip"})
        cut = await run.client.post(INFER, content=packed[:-9], headers={"Content-Encoding": "gzip"})
        unknown = await run.client.post(INFER, content=b"x", headers={"Content-Encoding": "br"})

        assert (broken.status_code, broken.json()) == (400, {"error": "the body is not valid gzip"})
        assert (cut.status_code, cut.json()) == (400, {"error": "the body ends in the middle of its gzip stream"})
        assert (unknown.status_code, unknown.json()) == (415, {"error": "this Content-Encoding is not read; send gzip, deflate or none"})


async def test_a_stalled_body_times_out() -> None:
    """A body that stops coming is 408, and the connection ends; the model never heard of it."""
    async with running(upload_seconds=0.2) as run, connected(run) as client:
        await client.post(INFER, b'{"inp', length=100)
        reply = await client.reply()

        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert await client.rest() == b""
        assert run.toy.seen == []


async def test_a_stalled_head_times_out() -> None:
    """So is a head that stops coming; a connection that says nothing is closed in silence."""
    async with running(upload_seconds=0.2) as run, connected(run) as half, connected(run) as silent:
        await half.send(b"POST /v2 HTTP/1.1\r\nHost")
        assert (await half.reply()).status == 408
        assert await silent.rest() == b""


async def test_an_unread_body_times_out() -> None:
    """A body that nobody reads, behind an answer that came at once, can't hold its connection either."""
    async with running(upload_seconds=0.2) as run, connected(run) as client:
        await client.post("/v2/ghost", b"x", length=100)
        assert (await client.reply()).status == 404
        await client.send(b"y")
        assert await client.rest() == b""


async def test_a_kept_connection_waits_between_requests() -> None:
    """The upload's clock does not run while a connection rests between two requests."""
    async with running(upload_seconds=0.2, keep_alive_seconds=5) as run, connected(run) as client:
        await client.post(INFER, padded(100))
        assert (await client.reply()).status == 200
        resting = list(run.server.rest._server.server_state.connections)
        assert [c._clock for c in resting] == [None]
        await client.post(INFER, padded(100))
        assert (await client.reply()).status == 200


async def test_a_slow_answer_is_not_a_slow_upload() -> None:
    """The upload's clock stops with the body's last byte, however long the answer takes."""
    import asyncio

    async with running(upload_seconds=0.2) as run:
        call = asyncio.create_task(run.client.post(INFER, json=tensor("hold on")))
        other = asyncio.create_task(run.client.post("/v1/echo", content=b"hold on"))
        async with connected(run) as stalled:  # its 408 is the sign that the time is over
            await stalled.post(INFER, b"{", length=100)
            assert (await stalled.reply()).status == 408
        run.toy.gate.open.set()
        assert ((await call).status_code, (await other).status_code) == (200, 200)


async def test_lengths_that_lie_are_refused() -> None:
    """Negative, doubled and nonsense Content-Length never reach a handler."""
    async with running() as run:
        for lengths in ("Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6", "Content-Length: ten", "Transfer-Encoding: gzip"):
            async with connected(run) as client:
                await client.send(f"POST {INFER} HTTP/1.1\r\nHost: t\r\n{lengths}\r\n\r\n{{}}".encode())
                reply = await client.reply()
                assert (lengths, reply.status // 100) == (lengths, 4 if "gzip" not in lengths else reply.status // 100)
                assert reply.status in (400, 501)


async def test_the_number_of_headers_is_bounded() -> None:
    """One more than the limit is 431."""
    async with running(max_headers=10) as run, connected(run) as client:
        extra = [f"X-{i}: 1" for i in range(9)]
        await client.post(INFER, padded(100), *extra)
        reply = await client.reply()

        assert (reply.status, reply.body) == (431, b'{"error":"the request has 11 headers; at most 10 are read"}')


async def test_a_client_that_reads_nothing_is_cut() -> None:
    """An answer that nobody reads is dropped after the same time, and what computes it is freed."""
    async with running(upload_seconds=0.3) as run, connected(run) as client:
        await client.post("/v1/stream", b"pour")
        await until(lambda: run.server.rest.busy == 1)
        await until(lambda: run.server.rest.busy == 0)
        assert run.server.rest._server.server_state.connections == set()


@pytest.mark.parametrize(
    "target", [b"/\xff", b"/\x00", b"/%ff", b"/%00", b"*", b"/" + b"a" * 9000, b"/?" + b"\xc3\xa9", b"http://t/v2", b"/" + b"%41" * 5000]
)
async def test_odd_targets_are_the_clients_fault(target: bytes) -> None:
    """Bytes that are no path are 400 or 404, never an exception."""
    async with running() as run, connected(run) as client:
        await client.send(b"GET " + target + b" HTTP/1.1\r\nHost: t\r\n\r\n")
        reply = await client.reply()
        assert reply.status in (400, 404)
        assert list(orjson.loads(reply.body)) == ["error"]


async def test_bodies_together_have_a_bound() -> None:
    """Many bodies that are each within the limit can't take the memory: one too many hears 429, and there is room again when one is answered."""
    async with running(max_bodies_bytes=KIB * KIB, max_body_bytes=KIB * KIB) as run, connected(run) as holding:
        await holding.post(INFER, padded(900 * KIB)[:-1], length=900 * KIB)
        await until(lambda: run.server.rest.busy == 1)
        refused = run.client.post(INFER, content=padded(200 * KIB))
        while (reply := await refused).status_code == 200:  # the first body may still be on its way
            refused = run.client.post(INFER, content=padded(200 * KIB))
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
        assert reply.json() == {"error": "requests of 1048576 bytes are being read and answered; send this one again later"}
        await holding.send(b" ")
        assert (await holding.reply()).status == 200
        assert (await run.client.post(INFER, content=padded(200 * KIB))).status_code == 200


async def test_a_full_queue_refuses_before_the_body() -> None:
    """429 with Retry-After at the end of the head: nothing of the body is read, parsed or held."""
    async with running() as run, connected(run) as client:
        run.toy.full = True
        await client.post(INFER, b"{", length=KIB * KIB)
        reply = await client.reply()
        assert (reply.status, reply.headers["retry-after"], run.toy.seen) == (429, "3", [])
        assert (await run.client.post("/v1/echo", content=b"x")).status_code == 429
        assert (await run.client.get("/v1/models")).status_code == 200
