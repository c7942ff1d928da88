"""TLS and client certificates, from the Secrets that cert-manager would write: REST, gRPC and the probes."""

import ssl
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from server.certificates import Authority, Files
from support.cluster import Release, Space


def secret(name: str, files: Files, **more: str) -> dict[str, object]:
    data = {"tls.crt": files.certificate.read_text(), "tls.key": files.key.read_text(), **more}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name}, "stringData": data}


def test_both_sides_prove_who_they_are(release: Release, space: Space, tmp_path: Path) -> None:
    """`helm test` passes with the client's certificate, over REST and gRPC; who has none is not spoken to, and the probes need none."""
    ca = Authority(tmp_path)
    server = ca.issue("server", f"{release.full}.{space.name}.svc", "127.0.0.1")
    client = ca.issue("client", "helm-test")
    trusted = ca.file.read_text()
    space.apply(secret("pair", server, **{"ca.crt": trusted, "clients.crt": trusted}), secret("client", client))

    release.install({"tls": {"existingSecret": "pair", "clientCaKey": "clients.crt", "testSecret": "client"}})
    told = release.helm("test", "--logs")

    assert '"passed": true' in told
    assert "grpc answers" in told
    with release.forward() as (rest, _):
        url = rest.url.replace("http:", "https:") + "/v2/health/ready"
        assert urlopen(url, context=ca.trusting(client), timeout=30).status == 200
        with pytest.raises((ssl.SSLError, URLError, ConnectionError)):
            urlopen(url, context=ca.trusting(), timeout=30)
        with pytest.raises((URLError, ConnectionError)):
            urlopen(url.replace("https:", "http:"), timeout=30)
