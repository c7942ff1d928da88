"""Which failures of a gRPC call mean that the server never took it."""

from grpc import StatusCode, aio

UNSENT = "Internal error from Core"  # the asyncio client's own words, never the server's, for a request that its closing connection would not take


def unsent(error: aio.AioRpcError) -> bool:
    """The client could not send the request, and says so in place of the UNAVAILABLE that was on its way (grpc.aio's `_call.py`, `_write`)."""
    return error.code() is StatusCode.INTERNAL and error.details() == UNSENT and not error.trailing_metadata()


def refused(error: aio.AioRpcError) -> bool:
    """The server, or the end of its connection, refused the call before it began."""
    return error.code() is StatusCode.UNAVAILABLE or unsent(error)
