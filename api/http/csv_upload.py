"""Read an uploaded file, piece by piece: the body itself, or the field `file` of a form.

To read and parse a file takes a thread for as long as it is, so UPLOADS bounds how many are read at
once.
"""

from collections.abc import Callable

from flask import request
from werkzeug.exceptions import RequestEntityTooLarge

from api.errors import ContentTooLarge
from api.http.problems import BODY_ERRORS, BROKEN_BODY, BadRequest, UnsupportedMediaType
from api.limits.concurrency import ConcurrencyLimit
from shared.domain.error_texts import error_text

# Of one process.
UPLOADS = ConcurrencyLimit(error_text("uploads"), per_process=3, per_caller=2, retry_after=5)
# What a form may add to the file: boundaries, headers and small fields.
MAX_FORM_OVERHEAD = 64 * 1024


NDJSON = "application/x-ndjson"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"


def is_ndjson() -> bool:
    """Return whether the request's body, or the file of its form, is declared as NDJSON."""
    if request.mimetype == "multipart/form-data":
        file = request.files.get("file")
        return file is not None and file.mimetype == NDJSON
    return request.mimetype == NDJSON


def upload_name() -> str:
    """Return the name of the file of the request's form; empty for other bodies."""
    file = request.files.get("file") if request.mimetype == "multipart/form-data" else None
    return file.filename or "" if file is not None else ""


def csv_body_reader(limit: int, *, all_types: bool = False) -> Callable[[int], bytes]:
    """Return a function that reads up to n bytes of the uploaded file: CSV, or also XLSX or NDJSON.

    The file may be up to `limit` bytes, more than other bodies. Raise UnsupportedMediaType,
    ContentTooLarge or BadRequest; the function raises BadRequest for a body that is cut short.
    """
    types = ["text/csv", *([XLSX, NDJSON] if all_types else [])]
    if request.mimetype not in (*types, "multipart/form-data"):
        raise UnsupportedMediaType(
            error_text(
                "Send the file itself as the body, with the header Content-Type: %(types)s,"
                " or as the field `file` of multipart/form-data.",
                types=error_text(
                    "%(first)s, %(second)s or %(third)s",
                    **dict(zip(("first", "second", "third"), types, strict=True)),
                )
                if all_types
                else types[0],
            )
        )
    if request.content_encoding not in (None, "", "identity"):
        raise UnsupportedMediaType(error_text("Send the body without a content encoding."))
    if request.mimetype == "multipart/form-data":
        return _form_file_reader(limit)
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit)
    request.max_content_length = limit + 1  # one more, for the CSV reader to detect excess
    return _body_reader(request.content_length)


def _too_large(limit: int) -> ContentTooLarge:
    return ContentTooLarge(
        error_text(
            "The file is larger than %(limit)s bytes: split it and send the parts.", limit=limit
        )
    )


def _form_file_reader(limit: int) -> Callable[[int], bytes]:
    request.max_content_length = limit + MAX_FORM_OVERHEAD
    try:
        file = request.files.get("file")
    except RequestEntityTooLarge:
        raise _too_large(limit) from None
    except OSError:
        raise BadRequest(BROKEN_BODY) from None
    if file is None:
        raise BadRequest(
            error_text("The form has no file in a field named `file`."), code="file_missing"
        )
    return file.stream.read


def _body_reader(length: int | None) -> Callable[[int], bytes]:
    stream, received = request.stream, 0

    def read(n: int) -> bytes:
        nonlocal received
        try:
            chunk = stream.read(n)
        except BODY_ERRORS:
            raise BadRequest(BROKEN_BODY) from None
        received += len(chunk)
        if not chunk and length is not None and received < length:
            raise BadRequest(error_text("The body is cut short."))
        return chunk

    return read
