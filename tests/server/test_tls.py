"""TLS and mTLS on all three ports: who is let in, which files end the start, and that a rotated certificate counts at once."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pilothouse.errors import StartError
from pilothouse.server.tls import Tls
from pilothouse.settings import load
from server.certificates import Authority, Files
from server.running import PATIENCE, Running, running
from server.test_grpc import asked
from server.test_v2_rest import INFER, tensor


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def named(files: Files, client_ca: Path | None = None) -> dict[str, Any]:
    """The settings that name these files."""
    return {"tls_certificate": files.certificate, "tls_key": files.key, "tls_client_ca": client_ca}


@asynccontextmanager
async def rest(run: Running, context: ssl.SSLContext, url: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=(url or run.rest).replace("http:", "https:"), verify=context, timeout=PATIENCE) as client:
        yield client


def channel(run: Running, ca: Authority, client: Files | None = None) -> aio.Channel:
    pair = (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    return aio.secure_channel(run.grpc, grpc.ssl_channel_credentials(ca.file.read_bytes(), *pair))


async def test_all_three_ports_speak_tls(ca: Authority) -> None:
    """REST, a stream, gRPC and metrics, to a client that checks; at least TLS 1.2, HTTP/1.1."""
    async with running(**named(ca.issue())) as run, rest(run, ca.trusting()) as client, channel(run, ca) as secure:
        assert (await client.post(INFER, json=tensor("hi"))).status_code == 200
        streamed = await client.post("/v2/models/toy/infer_stream", json=tensor("count 3"))
        assert streamed.text.count("data:") == 3
        call = secure.unary_unary("/inference.GRPCInferenceService/ModelInfer", asked("hi").__class__.SerializeToString)
        await call(asked("hi"))
        assert (await health_pb2_grpc.HealthStub(secure).Check(health_pb2.HealthCheckRequest())).status == 1
        async with rest(run, ca.trusting(), run.metrics) as metrics:
            assert "pilothouse_requests_total" in (await metrics.get("/metrics")).text
            assert (await metrics.get("/v2/health/live")).status_code == 404


async def test_without_tls_nobody_is_heard(ca: Authority) -> None:
    """Plain HTTP and plain gRPC on a TLS port, and a client that trusts another CA."""
    async with running(**named(ca.issue())) as run:
        with pytest.raises(httpx.TransportError):
            await run.client.get("/v2/health/live")
        with pytest.raises(aio.AioRpcError):
            await run.channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)
        async with rest(run, ssl.create_default_context()) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get("/v2/health/live")
        old = ca.trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with rest(run, old) as client:
            assert (await client.get("/v2/health/live")).status_code == 200


async def test_with_a_client_ca_only_its_clients_get_in(ca: Authority, tmp_path: Path) -> None:
    """REST and gRPC, the open paths too; no certificate and a stranger's are turned away. Keys still count beside it."""
    clients, strangers = Authority(tmp_path, "clients"), Authority(tmp_path, "strangers")
    friend, stranger = clients.issue("friend", "friend.example"), strangers.issue("stranger", "friend.example")
    keys = tmp_path / "keys"
    keys.write_text("team-a:correct-horse\n")
    async with running(**named(ca.issue(), clients.file), api_keys_file=keys) as run:
        for wrong in (None, stranger):
            async with rest(run, ca.trusting(wrong)) as client:
                for path in ("/v2/health/live", "/v2"):
                    with pytest.raises(httpx.TransportError):
                        await client.get(path)
            async with channel(run, ca, wrong) as secure:
                with pytest.raises(aio.AioRpcError):
                    await secure.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)
        async with rest(run, ca.trusting(friend)) as client, channel(run, ca, friend) as secure:
            assert (await client.get("/v2/health/live")).status_code == 200
            assert (await client.get("/v2")).status_code == 401
            assert (await client.get("/v2", headers={"Authorization": "Bearer correct-horse"})).status_code == 200
            assert await secure.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"
            with pytest.raises(aio.AioRpcError) as failed:
                await secure.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"")
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_probes_find_the_health_paths_where_no_certificate_is_wanted(ca: Authority, tmp_path: Path) -> None:
    """A kubelet has none: with a client CA, the metrics port answers the two health paths over TLS, and they tell the truth."""
    async with (
        running(loaded=False, **named(ca.issue(), Authority(tmp_path, "clients").file)) as run,
        rest(run, ca.trusting(), run.metrics) as probe,
    ):
        assert [(await probe.get(f"/v2/health/{kind}")).status_code for kind in ("live", "ready")] == [200, 503]
        await run.load()
        assert [(await probe.get(f"/v2/health/{kind}")).status_code for kind in ("live", "ready")] == [200, 200]
        assert (await probe.get("/metrics")).status_code == 200
        assert [(await probe.get(path)).status_code for path in ("/v2", "/v2/models/toy", "/ping")] == [404] * 3
        assert (await probe.post("/v2/health/live")).status_code == 404


async def _shown(address: str, context: ssl.SSLContext) -> bytes:
    """The certificate that a port shows now."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    async with asyncio.timeout(PATIENCE):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="127.0.0.1")
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


async def test_a_rotated_certificate_counts_at_the_next_handshake(ca: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """On all three ports, without a restart, while an open connection goes on; wrong new files are logged, and the old ones stay."""
    caplog.set_level(logging.INFO, logger="pilothouse.server")
    files = ca.issue()
    async with running(**named(files)) as run, rest(run, ca.trusting()) as held:
        await held.get("/v2/health/live")
        ports = (run.rest, run.grpc, run.metrics)
        before = {await _shown(port, ca.trusting()) for port in ports}
        files.key.write_text("nonsense")
        assert {await _shown(port, ca.trusting()) for port in ports} == before
        ca.issue()  # over the same files
        after = {await _shown(port, ca.trusting()) for port in ports}
        assert (len(before), len(after), before & after) == (1, 1, set())
        assert (await held.get("/v2/health/live")).status_code == 200
    assert "server.key (setting tls_key) is no PEM file" in caplog.text
    assert "the TLS certificate changed" in caplog.text


async def test_a_rotated_client_ca_counts_too(ca: Authority, tmp_path: Path) -> None:
    """Clients of the old CA are turned away once the file holds another one, over REST and gRPC."""
    old, new = Authority(tmp_path, "old"), Authority(tmp_path, "new")
    client_ca = tmp_path / "client-ca.pem"
    client_ca.write_bytes(old.file.read_bytes())
    was, now = old.issue("was", "c.example"), new.issue("now", "c.example")
    async with running(**named(ca.issue(), client_ca)) as run:
        async with rest(run, ca.trusting(was)) as client:
            assert (await client.get("/v2/health/live")).status_code == 200
        client_ca.write_bytes(new.file.read_bytes())
        async with rest(run, ca.trusting(now)) as client, channel(run, ca, now) as secure:
            assert (await client.get("/v2/health/live")).status_code == 200
            assert await secure.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b"\x08\x01"
        async with rest(run, ca.trusting(was)) as client, channel(run, ca, was) as secure:
            with pytest.raises(httpx.TransportError):
                await client.get("/v2/health/live")
            with pytest.raises(aio.AioRpcError):
                await secure.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"", timeout=5)


async def test_idle_tls_connections_do_not_hold_the_way_out(ca: Authority) -> None:
    """A client that keeps its connection and never says goodbye costs a second, not the drain's whole time."""
    async with running(**named(ca.issue())) as run:
        host, _, port = run.rest.rpartition("//")[2].rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=ca.trusting(), server_hostname="127.0.0.1")
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: t\r\n\r\n")
        await writer.drain()
        writer.transport.pause_reading()
        async with asyncio.timeout(10):
            assert await run.leave(drain_seconds=60)
        writer.transport.abort()


def refused(**settings: Any) -> str:
    """What a start with these settings says."""
    with pytest.raises(StartError) as failed:
        Tls(load(**settings))
    return str(failed.value)


def test_files_that_do_not_go_together_end_the_start(ca: Authority, tmp_path: Path) -> None:
    """Each by its setting and file, with the way out."""
    pair, other = ca.issue("a"), ca.issue("b")
    gone, empty = tmp_path / "gone", tmp_path / "empty"
    empty.write_text("")
    locked = tmp_path / "locked.key"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    a = pair.certificate
    assert refused(tls_certificate=gone, tls_key=pair.key) == f"{gone} (setting tls_certificate) can't be read: No such file or directory"
    assert refused(tls_certificate=a, tls_key=gone) == f"{gone} (setting tls_key) can't be read: No such file or directory"
    assert refused(tls_certificate=empty, tls_key=pair.key) == f"{empty} (setting tls_certificate) is no PEM file; convert it with openssl"
    assert refused(tls_certificate=a, tls_key=other.key) == (
        f"{other.key} (setting tls_key) is not the key of {a} (tls_certificate); give the pair that belongs together"
    )
    assert refused(tls_certificate=a, tls_key=locked).startswith(f"{locked} (setting tls_key) is locked with a password")
    assert refused(**named(pair, empty)) == f"{empty} (setting tls_client_ca) holds no certificate; write the CA as PEM"
    assert refused(**named(pair, gone)) == f"{gone} (setting tls_client_ca) can't be read: No such file or directory"


def test_a_certificate_out_of_its_time_ends_the_start(ca: Authority) -> None:
    """Expired, and not valid yet: every client would refuse it."""
    now = datetime.now(UTC)
    expired = ca.issue("old", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1))
    early = ca.issue("new", not_before=now + timedelta(days=1), not_after=now + timedelta(days=2))
    assert refused(**named(expired)) == f"{expired.certificate} (setting tls_certificate) has expired; renew it"
    assert refused(**named(early)) == f"{early.certificate} (setting tls_certificate) is not valid yet; renew it"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tls_certificate": "a.pem"}, "tls_certificate is set and tls_key is not: TLS needs both"),
        ({"tls_key": "a.key"}, "tls_key is set and tls_certificate is not: TLS needs both"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca is set and tls_certificate is not"),
    ],
)
def test_half_a_setting_is_refused(settings: dict[str, str], sentence: str) -> None:
    """No server that was meant to speak TLS ever speaks plain."""
    with pytest.raises(StartError, match=sentence):
        load(**settings)
