"""Errors as callers meet them: application/problem+json (RFC 9457), never an echo of the input."""

from collections.abc import Mapping, Sequence
from traceback import extract_tb
from typing import NamedTuple
from urllib.parse import quote

import psycopg2
import structlog
from flask import Flask, Response, current_app, g, request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

log = structlog.get_logger()

RETRY_AFTER = {"Retry-After": "2"}


class Fault(NamedTuple):
    """One thing that is wrong with a request: where (one of the two), what, and a stable code."""

    detail: str
    code: str
    pointer: str | None = None
    parameter: str | None = None

    def as_json(self) -> dict[str, str]:
        return {name: value for name, value in self._asdict().items() if value is not None}


class Problem(Exception):
    """A request that cannot be answered as asked. The subclasses say what the caller can do."""

    status = 500

    def __init__(
        self,
        detail: str,
        *,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})


class Malformed(Problem):
    """The request cannot even be read: mend the sender."""

    status = 400


class Unauthorized(Problem):
    """Send a valid token."""

    status = 401


class Forbidden(Problem):
    """The token is valid, but its scope does not reach this far."""

    status = 403


class NotFound(Problem):
    """There is no such thing, or no longer."""

    status = 404


class Conflict(Problem):
    """The request is fine, but not in the present state of things."""

    status = 409


class ContentTooLarge(Problem):
    """Send less at once."""

    status = 413


class UnsupportedMedia(Problem):
    """Send what the operation takes."""

    status = 415


class Invalid(Problem):
    """The request was read and breaks rules: each fault says which and where."""

    status = 422

    def __init__(self, *faults: Fault) -> None:
        first = faults[0]
        place = first.parameter or first.pointer
        detail = f"{place}: {first.detail}" if place else first.detail
        if len(faults) > 1:
            detail += f" (and {len(faults) - 1} more)"
        super().__init__(detail, faults=faults)


class TooManyRequests(Problem):
    """Wait: so much has been asked for in this minute."""

    status = 429

    def __init__(self, detail: str, *, seconds: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(seconds)})


class Unavailable(Problem):
    """Something we depend on is away: try again in a moment."""

    status = 503

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers=RETRY_AFTER)


def init_problems(app: Flask) -> None:
    app.register_error_handler(Problem, answer)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(DBAPIError, _from_database)
    app.register_error_handler(psycopg2.Error, _from_database)
    app.register_error_handler(PoolTimeout, _from_pool)
    app.register_error_handler(Exception, _from_defect)


def answer(problem: Problem) -> Response:
    return _respond(problem.status, problem.detail, problem.faults, problem.headers)


def _respond(
    status: int, detail: str, faults: Sequence[Fault] = (), headers: Mapping[str, str] | None = None
) -> Response:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": detail,
        "instance": quote(request.path, safe="/:@!$&'()*+,;=~"),
        "request_id": g.get("request_id"),
    }
    if faults:
        body["errors"] = [fault.as_json() for fault in faults]
    return Response(
        current_app.json.dumps(body),
        status,
        headers,
        mimetype="application/problem+json",
    )


DETAILS = {
    404: "There is nothing at this address.",
    405: "This address does not know the method; the Allow header lists those it knows.",
    413: "The body is too large; the limit is 1 MiB.",
}


def _from_http(error: HTTPException) -> HTTPException | Response:
    """Flask's own errors. Redirects pass as they are."""
    status = error.code or 500
    if status < 400:
        return error
    kept = {
        name: value
        for name, value in error.get_headers(request.environ)
        if name in {"Allow", "Retry-After", "WWW-Authenticate"}
    }
    return _respond(status, DETAILS.get(status, f"{HTTP_STATUS_CODES[status]}."), (), kept)


def _from_database(error: DBAPIError | psycopg2.Error) -> Response:
    """An outage, a timeout or a deadlock passes with time; anything else is our defect."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, psycopg2.OperationalError | psycopg2.InterfaceError):
        # The first line only: the rest may quote the statement's values.
        reason = str(cause).strip().partition("\n")[0]
        log.warning("database.unavailable", error=reason, error_class=type(cause).__name__)
        return answer(Unavailable("The database is not available. Try again in a moment."))
    return _from_defect(error)


def _from_pool(error: PoolTimeout) -> Response:
    log.warning("database.unavailable", error=str(error), error_class=type(error).__name__)
    return answer(Unavailable("The service is overloaded. Try again in a moment."))


def _from_defect(error: Exception) -> Response:
    # A database error's text quotes rows and parameters, so phones and texts: only its gist.
    cause = error.orig if isinstance(error, DBAPIError) else error
    gist = cause.diag.message_primary if isinstance(cause, psycopg2.Error) else str(cause)
    stack = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)
    ]
    log.error("api.defect", error_class=type(cause).__name__, error=gist, stack=stack)
    return _respond(500, "The service failed; the log has the details under this request_id.")
