"""Legal but unexpected answers of a provider, over real sockets."""

import gzip
import zlib

import pytest

from api.admin.presenters.labels import describe_reason
from tests.integration.worker.test_http_client import make_client, send, summarize
from tests.support.raw_server import OK, RawServer, make_response, respond

ACCEPTANCE = b'{"code":0,"message":"OK"}'
RUSSIAN = '{"code":0,"message":"Принято"}'
ACCEPTED = ("accepted", 200, "code_0")
NOT_READABLE = ("unknown", 200, "not_json")


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return make_response(status, body, *headers)


def chunked(body: bytes, *headers: str) -> bytes:
    lines = "\r\n".join(("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", *headers, "", ""))
    return lines.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(body) + stream.flush()


def compress(content: bytes) -> bytes:
    """Return the same bytes at every call: they are a part of the tests' names."""
    return gzip.compress(content, mtime=0)


GZIPPED = compress(ACCEPTANCE)
GZIP, DEFLATE = "Content-Encoding: gzip", "Content-Encoding: deflate"
WINDOWS = "Content-Type: application/json; charset=windows-1251"
QUOTED = 'Content-Type: application/json; charset="KOI8-R"; profile=a'


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (answer(GZIPPED, GZIP), ACCEPTED),
        (answer(GZIPPED, "content-encoding:  X-GZip "), ACCEPTED),
        (chunked(GZIPPED, GZIP), ACCEPTED),
        (answer(compress(GZIPPED), "Content-Encoding: gzip, gzip"), ACCEPTED),
        (answer(zlib.compress(ACCEPTANCE), DEFLATE), ACCEPTED),
        (answer(raw_deflate(ACCEPTANCE), DEFLATE), ACCEPTED),
        (answer(ACCEPTANCE, "Content-Encoding: identity"), ACCEPTED),
        (answer(ACCEPTANCE, GZIP), ACCEPTED),  # announced, but not compressed
        (answer(compress(b'{"code":7}'), GZIP), ("declined", 200, "code_7")),
        (answer(GZIPPED[:-9], GZIP), NOT_READABLE),
        (answer(GZIPPED, "Content-Encoding: br"), NOT_READABLE),
        (answer(compress(b"busy"), GZIP, status="500 No"), ("unavailable", 500, "http_500")),
        (answer(b"\xef\xbb\xbf" + ACCEPTANCE), ACCEPTED),
        (answer(RUSSIAN.encode("windows-1251"), WINDOWS), ACCEPTED),
        (answer(compress(RUSSIAN.encode("windows-1251")), WINDOWS, GZIP), ACCEPTED),
        (answer(RUSSIAN.encode("koi8-r"), QUOTED), ACCEPTED),
        (answer(RUSSIAN.encode("utf-16"), "Content-Type: text/plain; charset=utf-16"), ACCEPTED),
        (answer(RUSSIAN.encode(), "Content-Type: application/json; charset=UTF-8"), ACCEPTED),
        (answer(RUSSIAN.encode("windows-1251")), NOT_READABLE),
        (answer(ACCEPTANCE, "Content-Type: application/json; charset=klingon"), ACCEPTED),
        (answer(ACCEPTANCE, "Content-Type: application/json; charset=rot13"), ACCEPTED),
        (answer(b'{"code": 0.0, "message": "OK"}'), ACCEPTED),
        (answer(b'{"code": "0"}'), ("unknown", 200, "code_not_integer")),
        (answer(b'{"code":0}', status="201 Created"), ("unknown", 201, "http_201")),
        (answer(b'{"code":0}', status="202 Accepted"), ("unknown", 202, "http_202")),
        (answer(b"", status="401 Unauthorized"), ("unauthorized", 401, "http_401")),
        (answer(b"", status="404 Not Found"), ("rejected", 404, "http_404")),
        (answer(b"", status="405 Not Allowed"), ("rejected", 405, "http_405")),
    ],
)
def test_an_unexpected_answer_is_understood(
    raw: bytes, expected: tuple[str, int | None, str]
) -> None:
    # A usual answer before and after it: neither may change how the other is read.
    with RawServer(respond(OK, raw, OK, raw)) as server, make_client(server.url) as client:
        for wanted in (ACCEPTED, expected, ACCEPTED, expected):
            assert summarize(send(client)) == wanted
        assert server.connections == 1


def test_the_excerpt_of_a_decoded_answer_is_readable() -> None:
    raw = answer(compress(RUSSIAN.encode("windows-1251")), WINDOWS, GZIP)
    with RawServer(respond(raw)) as server, make_client(server.url) as client:
        assert send(client).excerpt == RUSSIAN


def test_the_ui_states_which_status_came() -> None:
    assert describe_reason("http_202") == "HTTP 202"
