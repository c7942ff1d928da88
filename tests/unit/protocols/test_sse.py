"""How every stream is framed."""

from pilothouse.protocols import sse


def test_an_event_is_one_data_line_and_an_empty_one() -> None:
    """As the standard frames it; a name only where its protocol names events, for most clients read `data:` alone."""
    assert sse.event(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse.event(b'{"a":1}', b"error") == b'event: error\ndata: {"a":1}\n\n'


def test_the_last_event_is_openais() -> None:
    """Clients stop at these exact bytes."""
    assert sse.DONE == b"data: [DONE]\n\n"


def test_no_proxy_may_keep_or_hold_back_a_stream() -> None:
    """The headers that caches and nginx obey."""
    assert (sse.MEDIA_TYPE, sse.HEADERS) == ("text/event-stream", {"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
