"""The three ports, before anything costly: a port that is taken is said at once and by name.

gRPC would share a taken port in silence (SO_REUSEPORT), and uvicorn end the process with a code of its own.
"""

import errno
import socket

from pilothouse.errors import StartError
from pilothouse.settings import Settings

_NAMES = ("rest_port", "grpc_port", "metrics_port")


def demand_free(settings: Settings) -> None:
    """Raise `StartError` that names the first of the three ports that can't be had."""
    for name in _NAMES:
        listen(settings, name).close()


def listen(settings: Settings, name: str) -> socket.socket:
    """A socket bound to `settings.host` and the port of setting `name` (0: any free one). Raises `StartError`."""
    host, port = settings.host, int(getattr(settings, name))
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        raise StartError(f"{host!r} is no address of this machine (setting host); use 127.0.0.1 or 0.0.0.0") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        # Only listening tells a port that another process has bound with SO_REUSEADDR too.
        bound.listen(2048)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(f"port {port} is taken (setting {name}); stop what listens there, or choose another port or 0") from None
        if error.errno == errno.EACCES:
            raise StartError(f"port {port} may not be used by this user (setting {name}); choose one above 1023") from None
        raise StartError(f"can't listen on {host} port {port} (settings host and {name}): {error.strerror}") from None
    return bound


def address(bound: socket.socket, host: str) -> str:
    """`host:port` of a bound socket, as a client would write it."""
    return located(host, bound.getsockname()[1])


def located(host: str, port: int) -> str:
    """`host:port` that can be connected to: a wildcard is this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
