"""The calendar of mailings: those of a month by the days on which they start."""

from datetime import date

from flask import Blueprint, render_template, request
from flask_babel import format_date

from api.admin.forms.field_errors import errors_from_service, field_text
from api.admin.presenters.mailing_calendar import build_month, local_day, read_month
from api.db import database_now
from api.errors import InvalidFields

blueprint = Blueprint("mailing_calendar", __name__)

# Of a day with more mailings, the rest is behind a link to the list.
MAX_SHOWN = 4
MONDAY = date(2030, 12, 2)


@blueprint.get("/mailings/calendar")
def show_month() -> str:
    now = database_now()
    month, problem = None, None
    first = read_month(field_text(request.args, "month"), now)
    try:
        month = build_month(first)
    except InvalidFields as error:
        problem = errors_from_service(error)["month"]
    return render_template(
        "admin/mailing_calendar.html",
        title=format_date(first, "LLLL y"),
        month=month,
        problem=problem,
        today=local_day(now),
        weekdays=[format_date(MONDAY.replace(day=2 + n), "ccc") for n in range(7)],
        weekday=lambda day: format_date(day, "cccc, d MMMM"),
        max_shown=MAX_SHOWN,
    )
