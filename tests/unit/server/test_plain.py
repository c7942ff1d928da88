"""What is read as plain is what h11 reads; all that needs more care is left to it."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilothouse.server import plain

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n"


def by_h11(data: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert type(request) is h11.Request
    return request


def spelled() -> st.SearchStrategy[bytes]:
    """Requests whose every part is right, odd or wrong."""
    line = st.sampled_from(
        [
            b"POST /v1/chat/completions HTTP/1.1",
            b"POST / HTTP/1.1",
            b"POST /a%20b HTTP/1.1",
            b"POST  /a HTTP/1.1",
            b"POST /a HTTP/1.0",
            b"GET /a HTTP/1.1",
        ]
    )
    names = st.sampled_from(
        [b"Host", b"content-length", b"Content-Length", b"Connection", b"X-A", b"X B", b"Transfer-Encoding", b"", b" X", b"Expect"]
    )
    values = st.one_of(
        st.sampled_from([b" 3", b"\t3 ", b" +3", b" close", b" keep-alive", b" chunked", b" a, b", b"", b" 03", b" x\ty ", b" \xe9"]),
        st.binary(max_size=4),
    )
    fields = st.lists(st.tuples(names, values), max_size=4)
    fixed = st.sampled_from([[], [(b"Host", b" t")], [(b"Host", b" t"), (b"Content-Length", b" 2")]])
    ends = st.sampled_from([b"\r\n\r\n", b"\n\n", b"\r\n", b"\r\n\r\nab"])
    return st.builds(
        lambda line, fixed, fields, end: b"\r\n".join([line, *[name + b":" + value for name, value in [*fixed, *fields]]]) + end,
        line,
        fixed,
        fields,
        ends,
    )


@given(spelled())
def test_plain_heads_are_read_as_h11_reads_them(data: bytes) -> None:
    """Target, headers in their order, lengths: or None, and h11 has the word."""
    head = plain.read(data)
    if head is None:
        return
    request = by_h11(data)
    assert (request.method, request.target, request.http_version) == (b"POST", head.path.encode(), b"1.1")
    assert list(request.headers) == head.headers
    assert data[head.size - 4 : head.size] == b"\r\n\r\n"
    assert head.body == int(dict(request.headers)[b"content-length"])


def test_a_plain_head_is_read() -> None:
    """Names in lower case, values without the space around them; what follows the head is not looked at."""
    data = HEAD + b"X-Request-Id:  one \r\nx-request-id: two\r\nConnection: Close\r\n\r\n"
    head = plain.read(data + b"{}")
    assert head is not None
    assert (head.path, head.body, head.closes) == ("/v1/completions", 3, True)
    assert head.all(b"x-request-id") == ["one", "two"]
    assert head.size == len(data)


@pytest.mark.parametrize(
    "data",
    [
        HEAD,
        HEAD + b"Content-Length: 3\r\n\r\n",
        HEAD + b"Host: u\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Expect: 100-continue\r\n\r\n",
        HEAD + b"Connection: upgrade\r\n\r\n",
        HEAD + b" folded\r\n\r\n",
        HEAD + b"X-A : 1\r\n\r\n",
        HEAD + b"X-A: \x00\r\n\r\n",
        HEAD.replace(b"/v1", b"/%76") + b"\r\n",
        HEAD.replace(b"completions", b"completions?a=b") + b"\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"\r\n",
        HEAD.replace(b"3", b"-3") + b"\r\n",
        HEAD.replace(b"Host: t\r\n", b"") + b"\r\n",
        HEAD + b"X-A: " + b"a" * plain.MOST_BYTES + b"\r\n\r\n",
    ],
)
def test_what_needs_care_is_left_to_the_parser(data: bytes) -> None:
    """Unfinished, doubled, folded, escaped, chunked, expecting, upgrading, old, too long: none of it is plain."""
    assert plain.read(data) is None


@pytest.mark.parametrize("blank", [b" ", b"\t", b" \t"])
def test_a_head_is_read_in_time_by_its_length(blank: bytes) -> None:
    """Blanks without end before what is not plain: every request comes here first. By the square of their number a thousand would take a quarter of
    an hour, and a test has two minutes."""
    data = HEAD + b"X-A:" + blank * ((plain.MOST_BYTES - 200) // len(blank)) + b"\x01\r\n\r\n"

    assert [plain.read(data) for _ in range(1000)] == [None] * 1000


@given(st.text("a \t\x01", max_size=40).map(str.encode))
def test_values_are_without_the_blanks_around_them(value: bytes) -> None:
    """And those within stay; a byte that is not plain leaves the head to the parser."""
    head = plain.read(HEAD + b"X-A:" + value + b"\r\n\r\n")

    assert (head and head.all(b"x-a")) == (None if b"\x01" in value else [value.strip(b" \t").decode()])
