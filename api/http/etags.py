"""Edit versions in HTTP: the ETag of an object, and the If-Match of a change."""

import re
from typing import Any

from flask import request

from api.http.problems import BadRequest, PreconditionRequired
from shared.domain.error_texts import error_text

# The JSON of an object, its status code, and headers with its ETag.
VersionedResponse = tuple[dict[str, Any], int, dict[str, str]]

ETAG_HEADER_DESCRIPTION = {
    "ETag": {
        "description": "The edit version: send it back as If-Match with a change.",
        "schema": {"type": "string", "examples": ['"3"']},
    }
}
IF_MATCH_PARAMETER = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag that the caller has read. If the object was edited since, nothing"
    " changes and the answer is 412.",
    "schema": {
        "type": "string",
        "pattern": r'^(\*|(W/)?"[!#-~]*"( *, *(W/)?"[!#-~]*")*)$',
        "examples": ['"3"'],
    },
}
# A compressing proxy makes an ETag weak, by the prefix W/; the version is the same.
ETAG = re.compile(r'(?:W/)?"([^"]*)"')


def format_etag(version: int) -> str:
    return f'"{version}"'


def requires_existence() -> bool:
    """Return whether the request's If-Match, also `*`, requires that the object exists."""
    return "If-Match" in request.headers


def require_if_match() -> frozenset[int] | None:
    """Like `read_if_match`, for an object that must not be changed without it."""
    if not requires_existence():
        raise PreconditionRequired(
            error_text('Send the ETag that was read as If-Match, for example "3".')
        )
    return read_if_match()


def read_if_match() -> frozenset[int] | None:
    """Return the versions that the request's If-Match permits; None means any. Raise BadRequest."""
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    tags = [ETAG.fullmatch(part.strip()) for part in header.split(",")]
    if not all(tags):
        raise BadRequest(
            error_text('If-Match must be an ETag as it was received, for example "3".'),
            code="etag_malformed",
        )
    return frozenset(int(tag[1]) for tag in tags if tag and re.fullmatch("[0-9]{1,9}", tag[1]))
