"""The operator's own port: alive, ready, metrics, and the door for MLflow's webhooks.

A webhook only says "look again": what it brings is never believed, so a forged one costs a question to the registry. It must be signed
all the same, by the secret that the webhook was made with.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

OLDEST = 300.0  # seconds that a signed delivery may be old
LARGEST = 64 << 10


def signed(secret: str, delivery: str, timestamp: str, body: bytes, signature: str, now: float) -> bool:
    """Whether a delivery is signed as MLflow does, and fresh."""
    try:
        if abs(now - float(timestamp)) > OLDEST:
            return False
    except ValueError:
        return False
    made = hmac.new(secret.encode(), f"{delivery}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return hmac.compare_digest(f"v1,{base64.b64encode(made).decode()}", signature)


def application(
    *, alive: Callable[[], bool], metrics: Callable[[], bytes], changed: Callable[[str], Awaitable[bool]], secret: Callable[[], str] | None
) -> web.Application:
    """`changed` is told a registered model's name, and answers whether that was heard; `secret` reads the webhooks' secret, None: there is no such door."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n") if alive() else web.Response(status=503, text="a watch or a worker has ended\n")

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def delivery(request: web.Request) -> web.Response:
        if secret is None:
            return web.Response(status=404, text="webhooks are off: set webhook.existingSecret in the operator's chart\n")
        body = await request.read()
        named = {name: request.headers.get(f"X-MLflow-{name}", "") for name in ("Delivery-Id", "Timestamp", "Signature")}
        if not signed(secret(), named["Delivery-Id"], named["Timestamp"], body, named["Signature"], time.time()):
            return web.Response(status=401, text="not signed by this webhook's secret, or too old\n")
        try:
            name = json.loads(body)["data"]["name"]
        except (ValueError, KeyError, TypeError):
            return web.Response(status=400, text="no MLflow registry event: data.name is missing\n")
        if await changed(str(name)):
            return web.Response(status=202)
        return web.Response(status=503, text="the API server does not answer; deliver it again\n")  # which MLflow does

    made = web.Application(client_max_size=LARGEST)
    made.add_routes(
        [web.get("/healthz", health), web.get("/readyz", health), web.get("/metrics", exposition), web.post("/webhooks/mlflow", delivery)]
    )
    return made


async def serve(made: web.Application, port: int) -> web.AppRunner:
    """Listen on every address. The caller cleans the runner up."""
    runner = web.AppRunner(made, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, None, port).start()
    return runner
