"""Errors as callers meet them: application/problem+json (RFC 9457), never an echo of the input."""

from collections.abc import Mapping, Sequence
from traceback import extract_tb
from urllib.parse import quote

import psycopg2
import structlog
from flask import Flask, Response, current_app, g, request
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from api.errors import (
    Conflict,
    ContentTooLarge,
    FieldError,
    InvalidFields,
    NotFound,
    RateLimited,
    ServiceError,
    Unavailable,
)

log = structlog.get_logger()

RETRY_AFTER = {"Retry-After": "2"}


class Problem(Exception):
    """A request that is refused for reasons of HTTP. The subclasses say what the caller can do."""

    status = 500

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})


class BadRequest(Problem):
    """The request cannot be parsed; fix the sender."""

    status = 400


class Unauthorized(Problem):
    """Send a valid token."""

    status = 401


class Forbidden(Problem):
    """The token is valid, but its scope is too narrow."""

    status = 403


class UnsupportedMediaType(Problem):
    """Send a content type that the operation accepts."""

    status = 415


STATUS_CODES: dict[type[ServiceError], int] = {
    NotFound: 404,
    Conflict: 409,
    ContentTooLarge: 413,
    InvalidFields: 422,
    RateLimited: 429,
    Unavailable: 503,
}


def status_code(error: ServiceError) -> int:
    """Return the HTTP status that stands for an error of a service."""
    return next(status for kind, status in STATUS_CODES.items() if isinstance(error, kind))


def init_problems(app: Flask) -> None:
    app.register_error_handler(Problem, _from_problem)
    app.register_error_handler(ServiceError, _from_service)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(DBAPIError, _from_database)
    app.register_error_handler(psycopg2.Error, _from_database)
    app.register_error_handler(PoolTimeout, _from_pool)
    app.register_error_handler(Exception, _from_defect)


def _from_problem(problem: Problem) -> Response:
    return _respond(problem.status, problem.detail, (), problem.headers)


def _from_service(error: ServiceError) -> Response:
    headers = {}
    if isinstance(error, RateLimited):
        headers = {"Retry-After": str(error.seconds)}
    elif isinstance(error, Unavailable):
        headers = RETRY_AFTER
    return _respond(status_code(error), error.detail, error.field_errors, headers)


def _respond(
    status: int,
    detail: str,
    field_errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": HTTP_STATUS_CODES[status],
        "status": status,
        "detail": detail,
        "instance": quote(request.path, safe="/:@!$&'()*+,;=~"),
        "request_id": g.get("request_id"),
    }
    if field_errors:
        body["errors"] = [error.as_json() for error in field_errors]
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
        return _from_service(Unavailable("The database is not available. Try again in a moment."))
    return _from_defect(error)


def _from_pool(error: PoolTimeout) -> Response:
    log.warning("database.unavailable", error=str(error), error_class=type(error).__name__)
    return _from_service(Unavailable("The service is overloaded. Try again in a moment."))


def _from_defect(error: Exception) -> Response:
    # A database error's text quotes rows and parameters, so phones and texts: only its gist.
    cause = error.orig if isinstance(error, DBAPIError) else error
    gist = cause.diag.message_primary if isinstance(cause, psycopg2.Error) else str(cause)
    stack = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)
    ]
    log.error("api.defect", error_class=type(cause).__name__, error=gist, stack=stack)
    return _respond(500, "The service failed; the log has the details under this request_id.")
