"""Server-sent events: how every stream here is framed."""

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No proxy may keep an answer, or hold its pieces back."""

HEAD, END = b"data: ", b"\n\n"
DONE = b"data: [DONE]\n\n"
"""The last event of OpenAI's chats and completions, and of MLflow's streams. A response's own last event says how it ended."""


def event(data: bytes, name: bytes = b"") -> bytes:
    """One event, named where its protocol names them. `data` is JSON on one line, as orjson writes it."""
    return (b"event: " + name + b"\n" if name else b"") + HEAD + data + END
