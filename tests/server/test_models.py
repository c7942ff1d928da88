"""Models in the server: while they load, when they can't, and behind the admin switch."""

import asyncio
from dataclasses import replace

import pytest
from mlserver import MLModel, ModelSettings
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.handlers import custom_handler

from pilothouse.errors import StartError
from server.running import bounded, running, until
from server.test_grpc import asked, status_of
from server.test_v2_rest import INFER, tensor
from server.toy import Toy, toy_settings

LOADING = "the model is loading; ask again when /v2/health/ready answers 200"
started, release = asyncio.Event(), asyncio.Event()


class Slow(Toy):
    """Loads until it is let go."""

    async def load(self) -> bool:
        started.set()
        await release.wait()
        return await super().load()


class Foreign(MLModel):
    """A handler as MLServer's own runtimes write it: FastAPI fills its parameters."""

    @custom_handler(rest_path="/foreign/{name}", rest_method="GET")
    async def named(self, name: str, times: int = 1) -> dict[str, str]:
        return {"name": name * times}


async def test_before_any_model_is_known_everything_waits() -> None:
    """Live and not ready; a model's name can't be judged yet, so requests are 503 and may be sent again, in each shape."""
    async with running(loaded=False) as run:
        live, ready = await run.client.get("/v2/health/live"), await run.client.get("/v2/health/ready")
        assert (live.status_code, live.json()) == (200, {"live": True})
        assert (ready.status_code, ready.json()) == (503, {"ready": False, "error": "the model is loading"})
        infer = await run.client.post(INFER, json=tensor("hi"))
        assert (infer.status_code, infer.json(), infer.headers["retry-after"]) == (503, {"error": LOADING}, "1")
        chat = await run.client.post("/v1/chat/completions", json={})
        assert (chat.status_code, chat.json()["error"]["code"]) == (503, "not_ready")
        assert (await run.client.get("/ping")).status_code == 503
        assert (await run.client.get("/ghost")).status_code == 404
        assert (await status_of(run.stub.ModelInfer(asked("hi"))))[0] == "UNAVAILABLE"
        assert not (await run.stub.ServerReady(pb.ServerReadyRequest())).ready


async def test_a_model_that_loads_is_known_and_not_ready() -> None:
    """Its own routes and V2's are 503 until its load is over; other names are 404 by then."""
    started.clear(), release.clear()
    async with running(loaded=False) as run:
        loading = asyncio.create_task(run.load(ModelSettings(name="toy", implementation=Slow, _env_file=None)))
        await bounded(started.wait())
        reason = "model toy is loading"
        model = await run.client.get("/v2/models/toy/ready")
        assert (model.status_code, model.json()) == (503, {"name": "toy", "ready": False, "error": reason})
        assert (await run.client.post(INFER, json=tensor("hi"))).json() == {"error": reason}
        assert (await run.client.post("/v1/echo")).json()["error"]["message"] == reason
        assert (await run.client.get("/v2/models/ghost/ready")).status_code == 404
        release.set()
        await bounded(loading)
        assert (await run.client.get("/v2/models/toy/ready")).json() == {"name": "toy", "ready": True}
        assert (await run.client.get("/v2/health/ready")).json() == {"ready": True}


async def test_a_dead_engine_is_not_ready() -> None:
    """Readiness, the model's own and every request say so, and live still answers."""
    async with running() as run:
        run.toy.numbers = replace(run.toy.numbers, alive=False)
        reason = "the engine of model toy is not alive"
        assert (await run.client.get("/v2/health/ready")).json() == {"ready": False, "error": reason}
        assert (await run.client.get("/v2/models/toy/ready")).status_code == 503
        assert (await run.client.post(INFER, json=tensor("hi"))).json() == {"error": reason}
        assert (await run.client.get("/ping")).status_code == 503
        assert (await run.client.get("/v2/health/live")).status_code == 200


async def test_a_stalled_engine_is_not_live() -> None:
    """Work without a step for the setting's time fails liveness on both protocols."""
    async with running(stall_seconds=0.05) as run:
        run.toy.numbers = replace(run.toy.numbers, running=1, idle=False)
        statuses = set()

        async def look() -> None:
            while 503 not in statuses:
                statuses.add((await run.client.get("/v2/health/live")).status_code)

        await bounded(look())
        assert statuses == {200, 503}
        assert not (await run.stub.ServerLive(pb.ServerLiveRequest())).live


async def test_the_wrong_device_is_not_ready() -> None:
    """With cuda promised, a model on the CPU takes no traffic."""
    async with running(device="cuda") as run:
        reason = "model toy runs on cpu and not on cuda as promised (setting device)"
        assert (await run.client.get("/v2/health/ready")).json()["error"] == reason
        run.toy.device = "cuda"
        assert (await run.client.get("/v2/health/ready")).status_code == 200


async def test_no_model_at_all_is_not_ready() -> None:
    """A server that started with nothing to serve takes no traffic."""
    async with running(loaded=False) as run:
        await run.server.load([])
        assert (await run.client.get("/v2/health/ready")).json() == {"ready": False, "error": "no model is loaded"}
        assert (await run.client.post(INFER, json={})).json() == {"error": "model 'toy' is not served here; served: none"}


@pytest.mark.parametrize(
    "wrong", [{"max_batch_size": 2}, {"max_batch_time": 0.1}, {"cache_enabled": True}, {"parameters": {"environment_tarball": "x"}}]
)
async def test_what_an_llm_cannot_bear_is_refused(wrong: dict[str, object]) -> None:
    """Batching, caching and environments of MLServer's are refused by name."""
    async with running(loaded=False) as run:
        with pytest.raises(StartError, match=next(iter(wrong)) if "parameters" not in wrong else "environment_tarball"):
            await run.load(ModelSettings(name="toy", implementation=Toy, _env_file=None, **wrong))


@pytest.mark.parametrize("name", ["MLSERVER_CACHE_ENABLED", "MLSERVER_KAFKA_ENABLED"])
async def test_the_hosts_environment_is_not_overruled_in_silence(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is asked for and can't be had ends the start."""
    monkeypatch.setenv(name, "true")
    with pytest.raises(StartError, match=name):
        async with running():
            pass


async def test_an_environment_the_host_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Service called mlserver-http would put this into every pod: one line that names it."""
    monkeypatch.setenv("MLSERVER_HTTP_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(StartError, match=r"MLSERVER_HTTP_PORT.: unset them"):
        async with running():
            pass


async def test_a_foreign_runtimes_handlers_work() -> None:
    """Handlers that FastAPI must fill are left to it; its refusals have our shape."""
    async with running(loaded=False) as run:
        await run.load(ModelSettings(name="foreign", implementation=Foreign, _env_file=None))
        assert (await run.client.get("/foreign/a?times=3")).json() == {"name": "aaa"}
        wrong = await run.client.get("/foreign/a?times=x")
        assert (wrong.status_code, wrong.json()) == (400, {"error": "the request is not as this path wants it"})
        run.server.catalog.all()[0].ready = False
        assert (await run.client.get("/foreign/a")).json() == {"error": "model foreign is loading"}


async def test_the_admin_switch_opens_the_repository() -> None:
    """Index lists what was started, unload takes the model and its routes away (and readiness), load brings them back: REST and gRPC."""
    async with running(repository_api=True) as run:
        index = await run.client.post("/v2/repository/index", json={})
        assert index.json() == [{"name": "toy", "version": "3", "state": "READY", "reason": ""}]
        assert (await run.client.post("/v2/repository/models/toy/unload")).status_code == 200
        assert (await run.client.get("/v2/health/ready")).json()["error"] == "no model is loaded"
        assert (await run.client.post("/v1/echo")).status_code == 404
        assert (await run.client.post(INFER, json={})).status_code == 404
        missing = await run.client.post("/v2/repository/models/ghost/load")
        assert (missing.status_code, missing.json()) == (404, {"error": "no such model or version"})
        await run.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="toy"))
        assert (await run.client.post("/v1/echo", content=b"back")).content == b"back"
        listed = await run.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
        assert [(model.name, model.state) for model in listed.models] == [("toy", "READY")]
        assert (await status_of(run.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="ghost"))))[0] == "NOT_FOUND"
        broken = await run.client.post("/v2/repository/index", content=b"{")
        assert (broken.status_code, list(broken.json())) == (400, ["error"])


async def test_two_servers_of_one_process_do_not_meet() -> None:
    """Each has its own models, metrics and health."""
    async with running() as one, running(loaded=False) as two:
        await two.load(toy_settings("other"))
        assert (await one.client.get("/v2/models/other")).status_code == 404
        assert (await two.client.get("/v2/models/other")).status_code == 200
        await until(lambda: one.server.metrics is not two.server.metrics)
