"""Error responses: application/problem+json (RFC 9457), which never repeat the input."""

from collections.abc import Mapping, Sequence
from traceback import extract_tb
from urllib.parse import quote

import psycopg2
import structlog
from flask import Flask, Response, current_app, g, request
from gunicorn.http.errors import NoMoreData, ParseException
from psycopg2.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from api.db import replace_connections
from api.errors import (
    Conflict,
    ContentTooLarge,
    FieldError,
    InvalidFields,
    NotFound,
    NothingToMatch,
    RateLimited,
    ServiceError,
    Unavailable,
    VersionMismatch,
)
from api.http.localisation import choose_language, translate
from api.http.problem_titles import TITLES
from shared.db.connections import TRANSIENT_ERRORS
from shared.domain.error_texts import ErrorText, error_text

log = structlog.get_logger()

# What reading a body raises under gunicorn. The texts quote the body, so they are never logged.
BODY_ERRORS = (ParseException, OSError)
BROKEN_BODY = error_text("The body is cut short, or its chunks are malformed.")

RETRY_AFTER_OUTAGE = {"Retry-After": "2"}


class Problem(Exception):
    """A request rejected for a reason of HTTP. The subclasses state what the caller can do."""

    status = 500
    code = "internal_error"

    def __init__(
        self,
        detail: ErrorText,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.headers = dict(headers or {})


class BadRequest(Problem):
    """The request cannot be parsed: correct it."""

    status = 400
    code = "body_malformed"


class Unauthorized(Problem):
    """The token is missing or invalid: send a valid one."""

    status = 401
    code = "token_invalid"


class Forbidden(Problem):
    """The token is valid, but lacks the scope: use another one."""

    status = 403
    code = "scope_insufficient"


class UnsupportedMediaType(Problem):
    """The operation does not accept this content type: send another one."""

    status = 415
    code = "unsupported_media_type"


class PreconditionRequired(Problem):
    """The change must say which version it is meant for: send If-Match."""

    status = 428
    code = "if_match_missing"


STATUS_CODES: dict[type[ServiceError], int] = {
    NotFound: 404,
    Conflict: 409,
    VersionMismatch: 412,
    NothingToMatch: 412,
    ContentTooLarge: 413,
    InvalidFields: 422,
    RateLimited: 429,
    Unavailable: 503,
}


def status_code(error: ServiceError) -> int:
    """Return the HTTP status of a service's error."""
    return next(status for kind, status in STATUS_CODES.items() if isinstance(error, kind))


def init_problems(app: Flask) -> None:
    app.register_error_handler(Problem, _handle_problem)
    app.register_error_handler(ServiceError, _handle_service_error)
    app.register_error_handler(ParseException, _handle_broken_body)
    app.register_error_handler(NoMoreData, _handle_broken_body)
    app.register_error_handler(HTTPException, _handle_http_exception)
    app.register_error_handler(DBAPIError, _handle_database_error)
    app.register_error_handler(psycopg2.Error, _handle_database_error)
    app.register_error_handler(PoolTimeout, _handle_pool_timeout)
    app.register_error_handler(Exception, _handle_defect)


def _handle_problem(problem: Problem) -> Response:
    return _respond(problem.status, problem.code, problem.detail, headers=problem.headers)


def _handle_broken_body(_: ParseException | NoMoreData) -> Response:
    return _handle_problem(BadRequest(BROKEN_BODY))


def _handle_service_error(error: ServiceError) -> Response:
    headers = {}
    if isinstance(error, RateLimited):
        headers = {"Retry-After": str(error.seconds)}
    elif isinstance(error, Unavailable):
        headers = RETRY_AFTER_OUTAGE
    elif isinstance(error, VersionMismatch):
        headers = {"ETag": f'"{error.version}"'}
    return _respond(
        status_code(error), error.code, error.detail, error.members, headers, error.field_errors
    )


def _respond(
    status: int,
    code: str,
    detail: ErrorText,
    members: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    field_errors: Sequence[FieldError] = (),
) -> Response:
    """Render a problem in the language that the request accepts best."""
    language = choose_language(request)
    body: dict[str, object] = {
        "type": "about:blank",
        "title": translate(TITLES[status], language),
        "status": status,
        "code": code,
        "detail": translate(detail, language),
        "instance": quote(request.path, safe="/:@!$&'()*+,;=~"),
        "request_id": g.get("request_id"),
        **(members or {}),
    }
    if field_errors:
        body["errors"] = [
            {**each.as_json(), "detail": translate(each.detail, language)} for each in field_errors
        ]
    response = Response(
        current_app.json.dumps(body), status, headers, mimetype="application/problem+json"
    )
    response.headers["Content-Language"] = language
    response.vary.add("Accept-Language")
    return response


DETAILS = {
    404: error_text("There is nothing at this address."),
    405: error_text(
        "This address does not know the method; the Allow header lists those it knows."
    ),
    413: error_text("The body is too large; the limit is 1 MiB."),
}
HTTP_CODES = {404: "no_such_address", 405: "method_not_allowed", 413: "too_large"}


def _handle_http_exception(error: HTTPException) -> HTTPException | Response:
    """Render an error of Flask; pass redirects through."""
    status = error.code or 500
    if status < 400:
        return error
    headers = {
        name: value
        for name, value in error.get_headers(request.environ)
        if name in {"Allow", "Retry-After", "WWW-Authenticate"}
    }
    code = HTTP_CODES.get(status, "internal_error" if status >= 500 else "request_malformed")
    detail = DETAILS.get(status) or error_text("%(title)s.", title=TITLES[status])
    return _respond(status, code, detail, headers=headers)


def _handle_database_error(error: DBAPIError | psycopg2.Error) -> Response:
    """Answer 503 to an outage, a read-only server, a timeout or a deadlock; else it is a defect."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, TRANSIENT_ERRORS):
        if isinstance(cause, ReadOnlySqlTransaction):
            replace_connections()
        # Log the first line only: the others may quote values of the statement.
        reason = str(cause).strip().partition("\n")[0]
        log.warning("database.unavailable", error=reason, error_class=type(cause).__name__)
        return _handle_service_error(
            Unavailable(
                error_text("The database is not available. Try again in a moment."),
                code="database_unavailable",
            )
        )
    return _handle_defect(error)


def _handle_pool_timeout(error: PoolTimeout) -> Response:
    log.warning("database.unavailable", error=str(error), error_class=type(error).__name__)
    return _handle_service_error(
        Unavailable(
            error_text("The service is overloaded. Try again in a moment."), code="overloaded"
        )
    )


def _handle_defect(error: Exception) -> Response:
    # A database error quotes rows and parameters, hence phones and texts: log its summary only.
    cause = error.orig if isinstance(error, DBAPIError) else error
    summary = cause.diag.message_primary if isinstance(cause, psycopg2.Error) else str(cause)
    stack = [
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)
    ]
    log.error("api.defect", error_class=type(cause).__name__, error=summary, stack=stack)
    return _respond(
        500,
        "internal_error",
        error_text("The service failed; the log has the details under this request_id."),
    )
