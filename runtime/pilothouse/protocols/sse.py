"""Server-sent events: how every stream here is framed."""

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No proxy may keep an answer, or hold its pieces back."""

HEAD, END = b"data: ", b"\n\n"
DONE = b"data: [DONE]\n\n"
"""The last event of OpenAI's streams, and of every stream that ends in an error."""


def event(data: bytes) -> bytes:
    """One event. `data` is JSON on one line, as orjson writes it."""
    return HEAD + data + END
