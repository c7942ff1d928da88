"""Certificates of a test's own: a CA, a server's pair, clients' pairs, and pairs with one thing wrong."""

import ssl
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


@dataclass
class Authority:
    """A CA that writes what it issues into `folder`."""

    folder: Path
    name: str = "ca"

    def __post_init__(self) -> None:
        self._ca = trustme.CA(organization_name=self.name)
        self.file = self.folder / f"{self.name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str = "server", *hosts: str, not_before: datetime | None = None, not_after: datetime | None = None) -> Files:
        """A pair for `hosts` (default: the loopback's names)."""
        made = self._ca.issue_cert(*(hosts or ("127.0.0.1", "localhost")), not_before=not_before, not_after=not_after)
        files = Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        files.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        files.key.write_bytes(made.private_key_pem.bytes())
        return files

    def trusting(self, client: Files | None = None) -> ssl.SSLContext:
        """A client's context that trusts this CA alone, and shows `client`."""
        context = ssl.create_default_context(cafile=str(self.file))
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context
