"""`pilothouse smoke` and `chat` against a server that speaks TLS and wants certificates: the same promises, over the same files as in a cluster."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilothouse.cli import main
from server.certificates import Authority, Files
from support.server import Served, served


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def friend(ca: Authority) -> Files:
    return Authority(ca.folder, "clients").issue("friend", "friend.example")


@pytest.fixture(scope="module")
def server(ca: Authority, friend: Files) -> Iterator[Served]:
    """The scripted engine behind TLS; clients show a certificate."""
    pair = ca.issue()
    with served(scripted=True, tls_certificate=pair.certificate, tls_key=pair.key, tls_client_ca=ca.folder / "clients.pem") as found:
        yield found


def flags(ca: Authority, friend: Files) -> list[str]:
    return ["--ca", str(ca.file), "--cert", str(friend.certificate), "--cert-key", str(friend.key)]


def test_smoke_holds_it_to_every_promise(server: Served, ca: Authority, friend: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """REST and gRPC, with the server's CA and a client's certificate."""
    assert server.rest.startswith("https://127.0.0.1:")
    code = main(["smoke", server.rest, "--grpc", server.grpc, "--json", *flags(ca, friend)])
    report = json.loads(capsys.readouterr().out)

    assert any("grpc" in check["name"].lower() for check in report["checks"])
    assert (code, [check for check in report["checks"] if check["problem"]]) == (0, [])


def test_chat_talks_over_tls(
    server: Served, ca: Authority, friend: Files, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One question, one answer."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
    assert main(["chat", server.rest, "--max-tokens", "4", *flags(ca, friend)]) == 0
    assert capsys.readouterr().out.strip()


def test_what_is_missing_is_said_with_its_flag(
    server: Served, ca: Authority, friend: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line: no CA, no certificate, a file that is none, flags without TLS."""

    def said(*arguments: str) -> str:
        assert main(["smoke", *arguments]) == 2
        return capsys.readouterr().err

    assert "speaks no TLS that we trust (" in said(server.rest)
    assert "name its CA with --ca, your certificate with --cert" in said(server.rest)
    assert "--cert" in said(server.rest, "--ca", str(ca.file))
    gone = tmp_path / "gone.pem"
    assert said(server.rest, "--ca", str(gone)) == f"pilothouse smoke: --ca {gone} can't be used: No such file or directory\n"
    gone.write_text("nonsense")
    assert said(server.rest, "--ca", str(gone)) == f"pilothouse smoke: --ca {gone} can't be used: no PEM file of this kind\n"
    plain = server.rest.replace("https:", "http:")
    assert "--ca is for a server that speaks TLS" in said(plain, "--ca", str(ca.file))
