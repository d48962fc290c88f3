"""Sends each day's report once; rows of daily_reports coordinate the processes."""

from datetime import date
from email.message import EmailMessage
from email.utils import make_msgid

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.config.settings import ReportSettings
from shared.db.connections import TRANSIENT_ERRORS
from shared.db.rows import fetch_one_row
from shared.report.days import day_bounds, due_days
from shared.report.delivery import (
    CLAIM_SECONDS,
    FIRST_WAIT_SECONDS,
    MAX_WAIT_SECONDS,
    NO_SERVER,
    MailRow,
    Transaction,
    mark_abandoned,
)
from shared.report.figures import DayFigures, read_day_figures
from shared.report.mail import NotSent, deliver_mail
from shared.report.rendering import make_mail

log = structlog.get_logger()

KNOWN_DAYS = """
SELECT day, status IN ('waiting', 'connecting') AND due_at <= now() FROM daily_reports
WHERE day = ANY (%s)
"""
# In a new installation, past days have no report.
SKIP_PAST_DAYS = """
INSERT INTO daily_reports (day, status) SELECT day, 'skipped' FROM unnest(%s::date[]) AS t (day)
WHERE NOT EXISTS (SELECT 1 FROM daily_reports)
ON CONFLICT DO NOTHING
"""
# `requested`: by a person, also for a skipped day, and without waiting for the next attempt.
CLAIM = """
INSERT INTO daily_reports (day, status, attempts, due_at)
VALUES (%(day)s, 'connecting', 1, now() + %(claim)s * interval '1 second')
ON CONFLICT (day) DO UPDATE SET status = 'connecting', attempts = daily_reports.attempts + 1,
    due_at = excluded.due_at
WHERE daily_reports.status IN ('waiting', 'connecting') AND daily_reports.due_at <= now()
    OR %(requested)s AND daily_reports.status IN ('waiting', 'skipped')
RETURNING attempts, served
"""
# A report that cannot be made waits like one that could not be sent, so that the reports of other
# days are made.
POSTPONE = """
INSERT INTO daily_reports (day, status, attempts, error, due_at)
VALUES (%(day)s, 'waiting', 1, %(error)s, now() + %(first)s * interval '1 second')
ON CONFLICT (day) DO UPDATE SET attempts = daily_reports.attempts + 1, error = excluded.error,
    due_at = now() + interval '1 second'
        * least(%(first)s * 2 ^ least(daily_reports.attempts, 10), %(longest)s)
WHERE daily_reports.status = 'waiting'
"""


class DayNotOver(Exception):
    """The requested day has not ended yet."""


def find_due_days(transaction: Transaction, settings: ReportSettings) -> list[date]:
    """Return the days whose report must be sent now, by PostgreSQL's clock; the oldest first."""
    if not (settings.report_recipients and settings.smtp_url):
        return []
    with transaction() as cursor:
        days = _mark_due_days(cursor, settings)
        for day in mark_abandoned(cursor, "daily_reports", "day"):
            log.error("report.in_doubt", day=str(day), error="its sender has ended")
        cursor.execute(KNOWN_DAYS, (days,))
        known = dict(cursor.fetchall())
    return [day for day in days if known.get(day, True)]


def send_report(
    transaction: Transaction, settings: ReportSettings, day: date, *, requested: bool = False
) -> str:
    """Send a day's report unless it is sent or being sent; return the result.

    The result is "sent", "failed" (it will be retried), "in doubt" (the mail server may have
    accepted it) or "not due". `requested`: by a person, for now. Raise DayNotOver.
    """
    with transaction() as cursor:
        _mark_due_days(cursor, settings)
        cursor.execute("SELECT now() < %s", (day_bounds(day, settings.report_timezone)[1],))
        if fetch_one_row(cursor)[0]:
            raise DayNotOver
    # Read before the claim, which is limited in time: a day of millions of messages takes long.
    try:
        figures = read_figures(transaction, settings, day)
        mail = _make_mail(figures, settings, settings.report_recipients)
    except TRANSIENT_ERRORS:
        raise
    except Exception as error:
        waits = {"first": FIRST_WAIT_SECONDS, "longest": MAX_WAIT_SECONDS}
        with transaction() as cursor:
            cursor.execute(POSTPONE, {"day": day, "error": type(error).__name__, **waits})
        raise
    with transaction() as cursor:
        cursor.execute(CLAIM, {"day": day, "claim": CLAIM_SECONDS, "requested": requested})
        row = cursor.fetchone()
    if row is None:
        return "not due"
    attempt, served = row
    recipients = [r for r in settings.report_recipients if r not in served]
    bound = log.bind(day=day.isoformat(), attempt=attempt)
    row_of_day = MailRow(transaction, "daily_reports", "day", day, attempt)
    delivery = row_of_day.deliver(settings.smtp_address, mail, recipients)
    if delivery.result == "failed":
        bound.warning("report.failed", error=delivery.error)
    elif delivery.result == "in doubt":
        bound.error("report.in_doubt", error=delivery.error)
    elif delivery.result == "sent":
        bound.info("report.sent", recipients=delivery.accepted, refused=delivery.refused)
    return delivery.result


def send_report_copy(
    transaction: Transaction, settings: ReportSettings, day: date, recipients: list[str]
) -> dict[str, str]:
    """Send a copy of a day's report; return the refused recipients with the server's replies.

    Raise NotSent or SentInDoubt.
    """
    mail = compose_report(transaction, settings, day, recipients)
    # With another id, mail programs show the copy to recipients of the report as well.
    del mail["Message-ID"]
    mail["Message-ID"] = make_msgid("report", settings.report_from.rpartition("@")[2].rstrip(">"))
    if settings.smtp_address is None:
        raise NotSent(NO_SERVER)
    return deliver_mail(settings.smtp_address, mail, recipients)


def read_figures(transaction: Transaction, settings: ReportSettings, day: date) -> DayFigures:
    """Read a day's figures in one snapshot of the database."""
    with transaction() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET LOCAL statement_timeout = '10min'")
        figures = read_day_figures(cursor, day, settings.report_timezone, settings.end_margin)
    figures.segment_price = settings.segment_price
    return figures


def compose_report(
    transaction: Transaction, settings: ReportSettings, day: date, recipients: list[str]
) -> EmailMessage:
    """Return a day's report as an e-mail to `recipients`."""
    return _make_mail(read_figures(transaction, settings, day), settings, recipients)


def _make_mail(
    figures: DayFigures, settings: ReportSettings, recipients: list[str]
) -> EmailMessage:
    language, sender = settings.report_language, settings.report_from
    return make_mail(figures, language, sender, recipients, settings.public_url)


def _mark_due_days(cursor: Cursor, settings: ReportSettings) -> list[date]:
    """Return the days whose report is due; mark them as skipped if there has been no report."""
    cursor.execute("SELECT now()")
    days = due_days(fetch_one_row(cursor)[0], settings.report_time, settings.report_timezone)
    cursor.execute(SKIP_PAST_DAYS, (days,))
    return days
