"""Decodes the bodies of responses that are compressed or not in UTF-8.

A request asks for an uncompressed answer, but a proxy on the way may compress it nevertheless. The
answer's meaning must not depend on that: one that cannot be read makes its message in doubt, and
the message is repeated.
"""

import re
import zlib

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # recognised by the header
_CODINGS = {b"gzip", b"x-gzip", b"deflate"}
_CHARSET = re.compile(rb";[ \t]*charset=[ \t]*\"?([\w.:-]+)", re.IGNORECASE)
# Tables of characters only: other codecs of Python are slow for long input, or no character sets.
_CODECS = re.compile(r"(windows|cp)-?\d+|iso-?8859-\d+|koi8-[rut]|latin-?1|utf-?(16|32)(le|be)?")
_UTF_8 = {b"utf-8", b"utf8", b"us-ascii", b"ascii"}


class ContentTooLong(Exception):
    """The decompressed body exceeds the limit; `beginning` is its first part."""

    def __init__(self, beginning: bytes):
        super().__init__()
        self.beginning = beginning


def find_codings(content_encoding: bytes | None, content_type: bytes | None) -> tuple[bytes, ...]:
    """Return what `decode_body` must undo, in this order: compressions, then a character set.

    Nearly always there is nothing to undo: the result is empty.
    """
    listed = (content_encoding or b"").lower().split(b",")
    codings = [
        name for each in reversed(listed) if (name := each.strip()) not in (b"", b"identity")
    ]
    charset = _CHARSET.search(content_type or b"")
    if charset is not None and (name := charset[1].lower()) not in _UTF_8:
        codings.append(name)
    return tuple(codings)


def decode_body(body: bytes, codings: tuple[bytes, ...], limit: int) -> bytes:
    """Return the body decompressed and in UTF-8; unchanged from what cannot be decoded on.

    Raises ContentTooLong if it would have more than `limit` bytes.
    """
    for coding in codings:
        if coding in _CODINGS:
            decompressed = _decompress(body, limit)
            if decompressed is None:
                return body
            body = decompressed
        else:
            name = coding.decode("latin-1")
            if not _CODECS.fullmatch(name):
                return body
            try:
                body = body.decode(name).encode()
            except (LookupError, UnicodeError):
                return body
    return body


def _decompress(body: bytes, limit: int) -> bytes | None:
    """Return the content of a complete gzip or zlib stream; None if it is neither."""
    # Some servers send `deflate` without the header of zlib.
    for window in (_GZIP_OR_ZLIB, -zlib.MAX_WBITS):
        stream = zlib.decompressobj(window)
        try:
            content = stream.decompress(body, limit + 1)
        except zlib.error:
            continue
        if len(content) > limit:
            raise ContentTooLong(content[:limit])
        if stream.eof:
            return content
    return None
