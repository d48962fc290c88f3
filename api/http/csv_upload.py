"""Read a CSV file from the body of a request, piece by piece."""

from collections.abc import Callable

from flask import request

from api.errors import ContentTooLarge
from api.http.problems import BadRequest, UnsupportedMediaType


def csv_body_reader(limit: int) -> Callable[[int], bytes]:
    """Return a function that reads up to n bytes of the request's body, which is a CSV file.

    The body may be up to `limit` bytes, more than other bodies. Raise UnsupportedMediaType or
    ContentTooLarge by its headers; the function raises BadRequest for a body that is cut short.
    """
    if request.mimetype != "text/csv":
        raise UnsupportedMediaType(
            "Send the file itself as the body, with the header Content-Type: text/csv."
        )
    if request.content_encoding not in (None, "", "identity"):
        raise UnsupportedMediaType("Send the body without a content encoding.")
    length = request.content_length
    if length is not None and length > limit:
        raise ContentTooLarge(
            f"The file is larger than {limit} bytes: split it and send the parts."
        )
    request.max_content_length = limit + 1  # one more, for the CSV reader to detect excess
    stream, received = request.stream, 0

    def read(n: int) -> bytes:
        nonlocal received
        try:
            chunk = stream.read(n)
        except OSError:
            raise BadRequest("The body is cut short, or its chunks are malformed.") from None
        received += len(chunk)
        if not chunk and length is not None and received < length:
            raise BadRequest("The body is cut short.")
        return chunk

    return read
