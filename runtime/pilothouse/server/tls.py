"""TLS for REST, gRPC and metrics from three files: certificate chain, its key, and the CA that clients' certificates must come from.

Files that do not go together end the start, by name. Later they are looked at with each handshake, so that a rotated certificate counts at
once and without a restart; new files that are wrong are logged, and the old ones stay.
"""

import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pilothouse.errors import StartError
from pilothouse.settings import Settings

log = logging.getLogger("pilothouse.server")

HANDSHAKE_SECONDS = 10.0
CLOSING_SECONDS = 1.0  # for the client's goodbye

_EXPIRED, _NOT_YET, _PURPOSE = 10, 9, 26  # OpenSSL's X509_V_ERR_*


@dataclass(frozen=True, slots=True)
class Pair:
    """What the files held at one moment, judged."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    stamp: tuple[tuple[int, int, int], ...]
    until: str  # the end of the certificate's life, as OpenSSL writes it


class Tls:
    """The files of the settings, and what they make: contexts for REST and metrics, credentials for gRPC."""

    def __init__(self, settings: Settings) -> None:
        """Raises `StartError` that names the setting and its file: missing, no PEM, locked, not a pair, expired."""
        assert settings.tls_certificate is not None
        assert settings.tls_key is not None
        self._paths = {"tls_certificate": settings.tls_certificate, "tls_key": settings.tls_key}
        if settings.tls_client_ca is not None:
            self._paths["tls_client_ca"] = settings.tls_client_ca
        self._lock = threading.Lock()  # gRPC asks on a thread of its own
        self._pair = self._read()
        self._told: object = self._pair.stamp
        self._contexts: dict[bool, tuple[Pair, ssl.SSLContext]] = {}
        log.info("TLS is on; the certificate is valid until %s", self._pair.until)

    def context(self, *, clients: bool) -> ssl.SSLContext:
        """For a listening port; `clients`: those without a certificate of the client CA are turned away, where one is set."""

        def renew(handshake: Any, name: object, context: object) -> None:
            handshake.context = self._context(clients)

        listening = self._make(self.pair(), clients)
        listening.sni_callback = renew  # called for every handshake, whether or not a name is sent
        return listening

    def credentials(self) -> Any:
        """For gRPC's port, which asks for the files again with each handshake."""
        import grpc

        def configuration(pair: Pair) -> Any:
            return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.client_ca)

        known = pair = self.pair()

        def fetch() -> Any:
            nonlocal known
            if (now := self.pair()) is known:
                return None
            known = now
            return configuration(now)

        return grpc.dynamic_ssl_server_credentials(configuration(pair), fetch, "tls_client_ca" in self._paths)

    def pair(self) -> Pair:
        """The files as they are now, or as they last made sense."""
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp != self._pair.stamp and stamp != self._told:
                    self._told = stamp
                    self._pair = self._read()
                    log.info("the TLS certificate changed; the new one is valid until %s", self._pair.until)
            except (StartError, OSError) as error:
                if isinstance(error, StartError):
                    log.error("the TLS files changed and can't be used, the old ones stay: %s", error)
            return self._pair

    def _context(self, clients: bool) -> ssl.SSLContext:
        pair = self.pair()
        made = self._contexts.get(clients)
        if made is None or made[0] is not pair:
            made = self._contexts[clients] = (pair, self._make(pair, clients))
        return made[1]

    def _stamp(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((found.st_mtime_ns, found.st_ino, found.st_size) for found in (path.stat() for path in self._paths.values()))

    def _read(self) -> Pair:
        """The files, judged by a handshake of this certificate with itself."""
        try:
            stamp = self._stamp()
        except OSError:
            stamp = ()  # `_bytes` says which
        texts = {name: self._bytes(name) for name in self._paths}
        pair = Pair(texts["tls_certificate"], texts["tls_key"], texts.get("tls_client_ca"), stamp, "")
        served = self._make(pair, clients=True)
        served.verify_mode = ssl.CERT_NONE
        with self._refusing("tls_certificate", "holds no certificate; write the chain as PEM, the server's own first"):
            asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            asking.check_hostname = False
            asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            asking.load_verify_locations(cadata=pair.certificate.decode("ascii", "replace"))
        try:
            until = _rehearse(served, asking)
        except ssl.SSLCertVerificationError as error:
            reason = {_EXPIRED: "has expired", _NOT_YET: "is not valid yet", _PURPOSE: "is not made for servers"}.get(error.verify_code)
            raise self._refusal("tls_certificate", f"{reason or 'is not accepted (' + error.verify_message + ')'}; renew it") from None
        return Pair(pair.certificate, pair.key, pair.client_ca, stamp, until)

    def _make(self, pair: Pair, clients: bool) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        for name in ("tls_certificate", "tls_key"):
            if b"-----BEGIN" not in getattr(pair, name.removeprefix("tls_")):
                raise self._refusal(name, "is no PEM file; convert it with openssl")
        if b"ENCRYPTED" in pair.key:
            raise self._refusal("tls_key", "is locked with a password; store it without one, and let the file's permissions guard it")
        with self._refusing(
            "tls_key", f"is not the key of {self._paths['tls_certificate']} (tls_certificate); give the pair that belongs together"
        ):
            context.load_cert_chain(self._paths["tls_certificate"], self._paths["tls_key"], password=lambda: "")
        if clients and pair.client_ca is not None:
            with self._refusing("tls_client_ca", "holds no certificate; write the CA as PEM"):
                context.load_verify_locations(cadata=pair.client_ca.decode("ascii", "replace"))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _bytes(self, name: str) -> bytes:
        try:
            return self._paths[name].read_bytes()
        except OSError as error:
            raise self._refusal(name, f"can't be read: {error.strerror}") from None

    def _refusal(self, name: str, problem: str) -> StartError:
        return StartError(f"{self._paths[name]} (setting {name}) {problem}")

    @contextmanager
    def _refusing(self, name: str, problem: str) -> Iterator[None]:
        try:
            yield
        except (ssl.SSLError, OSError, ValueError):
            raise self._refusal(name, problem) from None


def _rehearse(served: ssl.SSLContext, asking: ssl.SSLContext) -> str:
    """A handshake in memory; the end of the certificate's life. Raises `ssl.SSLCertVerificationError` for a certificate no client would take."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = served.wrap_bio(to_server, to_client, server_side=True)
    client = asking.wrap_bio(to_client, to_server)
    done = False
    for _ in range(10):
        for end in (client, server):
            try:
                end.do_handshake()
                done = end is client
            except ssl.SSLWantReadError:
                continue
        if done:
            break
    return str((client.getpeercert() or {}).get("notAfter", ""))
