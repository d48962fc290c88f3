"""Error pages of the admin UI: what happened, and what to do."""

import structlog
from flask import Blueprint, render_template, request
from flask_babel import gettext as _
from flask_wtf.csrf import CSRFError
from gunicorn.http.errors import NoMoreData, ParseException
from psycopg2 import Error as DriverError
from psycopg2.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from api.admin.kept_form import kept_fields, sign_in_address
from api.db import replace_connections
from api.errors import RateLimited, ServiceError
from api.http.problems import Problem, status_code
from shared.db.connections import TRANSIENT_ERRORS

log = structlog.get_logger()


def init_errors(admin: Blueprint) -> None:
    admin.register_error_handler(CSRFError, _handle_csrf_error)
    admin.register_error_handler(ParseException, lambda _: _render_status(400))
    admin.register_error_handler(NoMoreData, lambda _: _render_status(400))
    admin.register_error_handler(HTTPException, _handle_http_exception)
    admin.register_error_handler(Problem, _handle_problem)
    admin.register_error_handler(ServiceError, _handle_problem)
    admin.register_error_handler(DBAPIError, _handle_database_error)
    admin.register_error_handler(DriverError, _handle_database_error)
    admin.register_error_handler(PoolTimeout, _handle_database_error)


def _render_page(status: int, title: str, detail: str) -> tuple[str, int]:
    page = render_template(
        "admin/error.html",
        status=status,
        title=title,
        detail=detail,
        sign_in=sign_in_address() if status == 401 else "/admin/",
    )
    return page, status


def _handle_csrf_error(error: CSRFError) -> tuple[str, int]:
    log.warning("admin.csrf_refused", error=error.description)
    fields = kept_fields()
    if fields is not None:
        return _render_interruption(
            400,
            _("Please send this again"),
            _(
                "You have signed in again since this form was opened. Nothing was changed, and "
                "what you wrote is kept on this page."
            ),
            fields,
        )
    return _render_page(
        400,
        _("This form is too old"),
        _("Nothing was changed. Go back, reload the page and try again."),
    )


def _render_interruption(
    status: int, title: str, detail: str, fields: list[tuple[str, str]]
) -> tuple[str, int]:
    """Render a page that keeps the fields of a refused form and can send them again."""
    page = render_template(
        "admin/interrupted.html",
        status=status,
        title=title,
        detail=detail,
        fields=fields,
        sign_in=sign_in_address(),
    )
    return page, status


def _handle_http_exception(error: HTTPException) -> HTTPException | tuple[str, int]:
    if error.code is None or error.code < 400:
        return error
    fields = kept_fields() if error.code == 401 and "X-Fragment" not in request.headers else None
    if fields is not None:
        return _render_interruption(
            401,
            _("Your session has ended"),
            _("Nothing was changed, and what you wrote is kept. Sign in to go on."),
            fields,
        )
    return _render_status(error.code)


def _handle_problem(
    problem: Problem | ServiceError,
) -> tuple[str, int] | tuple[str, int, dict[str, str]]:
    if isinstance(problem, RateLimited):
        return *_render_status(429), {"Retry-After": str(problem.seconds)}
    return _render_status(problem.status if isinstance(problem, Problem) else status_code(problem))


def _render_status(status: int) -> tuple[str, int]:
    texts = {
        401: (_("Please sign in"), _("You are not signed in, or your session has ended.")),
        403: (
            _("Your role does not allow this"),
            _("Nothing was changed. An administrator can give you another role."),
        ),
        404: (
            _("There is nothing here"),
            _("The address is wrong, or what was here has been deleted."),
        ),
        409: (
            _("This cannot be done any more"),
            _("It has changed meanwhile. Go back and look at it as it is now."),
        ),
        413: (_("This is too large"), _("Split it into smaller parts and try again.")),
        429: (_("Too many requests"), _("Nothing was changed. Wait a moment and try again.")),
        503: (_("This cannot be done now"), _("Nothing was changed. Try again in a moment.")),
    }
    default = (
        _("This cannot be done"),
        _("The request was not understood. Go back and try again."),
    )
    return _render_page(status, *texts.get(status, default))


def _handle_database_error(error: Exception) -> tuple[str, int]:
    cause = getattr(error, "orig", error)
    if not isinstance(cause, (*TRANSIENT_ERRORS, PoolTimeout)):
        raise error
    if isinstance(cause, ReadOnlySqlTransaction):
        replace_connections()
    log.warning("database.unavailable", error_class=type(cause).__name__)
    return _render_page(
        503, _("The database cannot be reached"), _("Nothing is lost. Try again in a moment.")
    )
