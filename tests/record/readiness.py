"""What probes are told, and whether they are told: D8, D9, E7."""

import asyncio
import signal

import httpx

from record import calls
from record.case import Seen, case
from record.hosts import Host, waited
from record.sides import MLFLOW, MODEL, TOY, Ours, Side, Stock, gate_model


async def probes(host: Host) -> str:
    """Liveness and readiness, both asked at once, with three times a kubelet's patience."""
    live, ready = await asyncio.gather(host.status("/v2/health/live", 3.0), host.status(seconds=3.0))
    return f"live {live}, ready {ready}"


async def unloading(side: Side) -> Seen:
    """Readiness while the only model loads, and after it is unloaded again."""
    seen: Seen = {}
    if isinstance(side, Ours):
        model, doors = gate_model(side.folder("loading-model"))
        door, name = doors / "loads", "loading"
        host = await side.start("loading", str(model), wait=False, allow_model_code=True, repository_api=True, model_name=name)
    else:
        assert isinstance(side, Stock)
        door, name = side.folder("door"), MODEL
        about = {**TOY, "parameters": {"extra": {"gate": str(door)}}}
        host = await side.start("loading", {MODEL: about}, wait=False, parallel_workers=0)

    async def up() -> bool:
        return await host.status() in ("400", "503")

    async def ready() -> bool:
        return await host.status() == "200"

    await host.until(up)
    seen["a model is loading"] = await probes(host)
    door.write_text("")
    await host.until(ready)
    await calls.post(host, f"/v2/repository/models/{name}/unload", b"")
    seen["the last model was unloaded"] = await probes(host)
    host.end()
    return seen


async def dying(side: Side) -> Seen:
    """What computes the answers dies: what callers and probes are told then, and whether the process can be ended."""
    if isinstance(side, Ours):
        host = await side.start("dying", step=0.02)
        asked, quiet = calls.body(calls.BREAKS), calls.body()
    else:
        assert isinstance(side, Stock)
        host = await side.workers()
        asked, quiet = calls.body("exit 0"), calls.body()
    died = asyncio.create_task(told(host, asked, 3.0 if side.stock else 20.0))
    if side.stock:
        await died
        next_one = await told(host, quiet, 3.0)
        ready = f"ready {await host.status()}"
    else:
        await died

        async def mended() -> bool:
            return await host.status() == "200"

        await waited(mended, 10)
        next_one, ready = await told(host, quiet, 20.0), f"ready {await host.status()}"
    host.signal(signal.SIGTERM)
    end = await host.ended(10)
    host.end()
    return {
        "what computes dies: the request in it": died.result(),
        "the next request": next_one,
        "probes beside it": ready,
        "SIGTERM then": end,
    }


async def told(host: Host, content: object, seconds: float) -> str:
    try:
        return calls.form(await calls.post(host, calls.infer(), content, timeout=seconds))
    except httpx.TimeoutException:
        return "no answer"
    except httpx.TransportError:
        return "cut"


@case(
    "D8",
    "Readiness says yes where nothing can be answered, and a dead worker hangs every request for ever",
    {
        "a model is loading": ("live 200, ready 400", "live 200, ready 503"),
        "the last model was unloaded": ("live 200, ready 200", "live 200, ready 503"),
        "what computes dies: the request in it": ("no answer", '500 {"error"}'),
        "the next request": ("no answer", "200"),
        "probes beside it": ("ready 200", "ready 200"),
        "SIGTERM then": ("still running", "exit code 0"),
    },
)
async def d8(side: Side) -> Seen:
    loading, dead = await asyncio.gather(unloading(side), dying(side))
    return loading | dead


async def blocking(side: Side) -> Seen:
    """An MLflow model of plain blocking Python: what the probes are told while it loads, and while it answers."""
    model, doors = gate_model(side.folder("blocking-model"))
    if isinstance(side, Ours):
        host = await side.start("blocking", str(model), wait=False, allow_model_code=True, model_name="gate")
    else:
        assert isinstance(side, Stock)
        about = {"implementation": MLFLOW, "parameters": {"uri": str(model)}}
        host = await side.start("blocking", {"gate": about}, wait=False, parallel_workers=0)

    def there(name: str) -> "asyncio.Future[bool]":
        async def reached() -> bool:
            return (doors / name).exists()

        return asyncio.ensure_future(waited(reached, 60))

    async def ready() -> bool:
        return await host.status("/v2/models/gate/ready") == "200"

    async def live() -> bool:
        return await host.status("/v2/health/live") == "200"

    seen: Seen = {}
    await there("loads-waiting")
    await waited(live, 5)
    seen["its load blocks"] = await probes(host)
    (doors / "loads").touch()
    await host.until(ready)
    tensor = {"name": "model_input", "shape": [1], "datatype": "BYTES", "data": ["hi"], "parameters": {"content_type": "str"}}
    asked = asyncio.create_task(calls.post(host, "/v2/models/gate/infer", {"inputs": [tensor]}, timeout=60))
    await there("answers-waiting")
    seen["its predict blocks"] = await probes(host)
    (doors / "answers").touch()
    seen["the answer"] = calls.form(await asked)
    host.end()
    return seen


@case(
    "D9",
    "The MLflow runtime loads and predicts on the event loop: one slow model freezes everything, liveness too",
    {
        "its load blocks": ("live refused, ready refused", "live 200, ready 503"),
        "its predict blocks": ("live no answer, ready no answer", "live 200, ready 200"),
    },
)
async def d9(side: Side) -> Seen:
    seen = await side.once("blocking", lambda: blocking(side))
    return {key: seen[key] for key in ("its load blocks", "its predict blocks")}


@case(
    "E7",
    "A synchronous predict answers, and only then do the probes; a blocking load keeps the port shut",
    {"the port while it loads": ("refused", "open"), "the answer, once the work is done": ("200", "200")},
)
async def e7(side: Side) -> Seen:
    seen = await side.once("blocking", lambda: blocking(side))
    port = "refused" if "refused" in seen["its load blocks"] else "open"
    return {"the port while it loads": port, "the answer, once the work is done": seen["the answer"]}
