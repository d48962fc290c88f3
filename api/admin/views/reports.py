"""The daily report, for administrators: preview it, and send it now."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

from flask import (
    Blueprint,
    Flask,
    abort,
    current_app,
    flash,
    make_response,
    redirect,
    render_template,
    url_for,
)
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.audit_log.service import record_change
from api.db import database_now, db, transaction
from shared.config.settings import ApiSettings, ReportSettings
from shared.db.report_models import DailyReport
from shared.domain.scopes import Scope
from shared.report.daily import DayNotOver, read_figures, send_report
from shared.report.rendering import render_html

blueprint = Blueprint("reports", __name__)

LISTED_DAYS = 14
# The e-mail has inline styles, and needs no other resources.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


def init_reports(app: Flask, settings: ApiSettings) -> None:
    app.extensions["report_settings"] = settings


@blueprint.get("/reports")
@require_scope(Scope.ADMIN)
def list_reports() -> str:
    settings = _get_settings()
    today = database_now().astimezone(ZoneInfo(settings.report_timezone)).date()
    days = [today - timedelta(days=n) for n in range(1, LISTED_DAYS + 1)]
    found = db.session.query(DailyReport).filter(DailyReport.day >= days[-1])
    return render_template(
        "admin/reports.html",
        days=days,
        known={row.day: row for row in found},
        settings=settings,
        on=bool(settings.smtp_url and settings.report_recipients),
    )


@blueprint.get("/reports/<day>")
@require_scope(Scope.ADMIN)
def preview_report(day: str) -> Response:
    settings = _get_settings()
    figures = read_figures(transaction, settings, _parse_day(day))
    page = render_html(figures, settings.report_language, settings.public_url)
    response = make_response(page)
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@blueprint.post("/reports/<day>/send")
@require_scope(Scope.ADMIN)
def send_now(day: str) -> Response:
    messages = {
        "sent": (_("The report is sent."), "success"),
        "failed": (_("The mail server did not take it. It is tried again by itself."), "warning"),
        "in doubt": (_("The mail server broke off: it may have been sent."), "warning"),
        "not due": (_("This report was sent already, or is being sent now."), "warning"),
    }
    try:
        outcome = send_report(transaction, _get_settings(), _parse_day(day), requested=True)
    except DayNotOver:
        abort(404)
    record_change(current_actor(), "sent", "report", changes={"day": day, "outcome": outcome})
    db.session.commit()
    flash(*messages[outcome])
    return redirect(url_for("admin.reports.list_reports"), 303)


def _get_settings() -> ReportSettings:
    settings: ReportSettings = current_app.extensions["report_settings"]
    return settings


def _parse_day(text: str) -> date:
    # End the transaction of this request: the report begins its own.
    db.session.rollback()
    try:
        return date.fromisoformat(text)
    except ValueError:
        abort(404)
