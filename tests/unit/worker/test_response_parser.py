"""HTTP responses from a stream: cut anywhere, malformed, or too long."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.provider.http.response_parser import (
    MAX_RESPONSE_BYTES,
    MalformedResponse,
    Response,
    ResponseParser,
    ResponseTooLong,
    head_cache,
    parse_head,
)


def read(*pieces: bytes, ended: bool = False) -> Response | None:
    reader = ResponseParser()
    for piece in pieces:
        answer = reader.feed(piece)
        if answer is not None:
            return answer
    return reader.feed_eof() if ended else None


PLAIN = b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"code":0}'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5;name=value\r\n{"cod\r\n5\r\ne":0}\r\n0\r\nTrailer: x\r\n\r\n'
)
AFTER_HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nRetry-After: 9\r\n\r\n" + PLAIN
BARE_LF = b'HTTP/1.1 200 OK\nContent-Length: 10\n\n{"code":0}'
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"


@given(
    st.sampled_from([PLAIN, CHUNKED, AFTER_HINTS, BARE_LF, NO_CONTENT]),
    st.lists(st.integers(1, 200), max_size=8),
)
def test_a_response_may_be_cut_anywhere(raw: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [raw[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == read(raw)
    assert read(*(raw[i : i + 1] for i in range(len(raw)))) == read(raw)
    answer = read(raw)
    assert answer is not None
    assert answer.body == (b"" if raw is NO_CONTENT else b'{"code":0}')
    assert answer.reusable
    assert answer.retry_after is None


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_parsed_incomplete_or_rejected(raw: bytes, under_a_head: bool) -> None:
    if under_a_head:
        raw = b"HTTP/1.1 200 OK\r\n" + raw
    try:
        answer = read(raw, ended=True)
    except (MalformedResponse, ResponseTooLong):
        return
    assert answer is None or len(answer.body) <= MAX_RESPONSE_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        b"lucky you\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 2000,
    ],
)
def test_malformed_responses_are_rejected(raw: bytes) -> None:
    with pytest.raises(MalformedResponse):
        read(raw)


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", False),  # it ends with the connection
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x\r\nConnection: close", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive", True),
        (b"HTTP/1.1 101 Switching", False),
    ],
)
def test_keep_alive_follows_the_head(head: bytes, keep_alive: bool) -> None:
    assert parse_head(head).keep_alive is keep_alive


def test_folded_and_repeated_headers_are_parsed() -> None:
    folded = parse_head(b"HTTP/1.1 503 Busy\r\nContent-Length: 10, 10\r\nRetry-After:\r\n  7")
    assert (folded.length, folded.retry_after, folded.keep_alive) == (10, "7", True)
    both = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nTransfer-Encoding: chunked")
    assert not both.keep_alive


def test_a_connection_with_bytes_after_the_response_is_not_reusable() -> None:
    for raw in (PLAIN, CHUNKED):
        answer = read(raw + b"HTTP/1.1 200 OK\r\n")
        assert answer is not None
        assert not answer.reusable


def test_a_response_without_a_length_ends_with_the_connection() -> None:
    raw = b'HTTP/1.1 200 OK\r\n\r\n{"code":0}'
    assert read(raw) is None
    answer = read(raw, ended=True)
    assert answer is not None
    assert (answer.body, answer.reusable) == (b'{"code":0}', False)
    assert read(PLAIN[:-1], ended=True) is None
    assert read(CHUNKED[:-1], ended=True) is None


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: %d\r\n\r\n" % (MAX_RESPONSE_BYTES + 1),
        b"Content-Length: 99999999999999999999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n",
        b"\r\n" + b" " * (MAX_RESPONSE_BYTES + 1),
    ],
)
def test_a_too_long_body_is_cut(head: bytes) -> None:
    answer = read(b"HTTP/1.1 422 No\r\n" + head)
    assert answer is not None
    assert (answer.status, answer.too_long, answer.reusable) == (422, True, False)
    assert len(answer.body) <= MAX_RESPONSE_BYTES


def test_endless_heads_are_rejected() -> None:
    for endless in (
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_RESPONSE_BYTES,
        b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_RESPONSE_BYTES,
        CHUNKED[:-2] + b"X: y\r\n" * MAX_RESPONSE_BYTES,
    ):
        with pytest.raises(ResponseTooLong):
            read(*(endless[i : i + 8192] for i in range(0, len(endless), 8192)))


def test_the_cache_of_heads_is_bounded() -> None:
    for number in range(1000):
        parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nX-Request-ID: %d" % number)
    assert len(head_cache) <= 256
