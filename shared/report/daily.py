"""Who sends which day's report, once: the database decides."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, datetime
from email.message import EmailMessage

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.report.days import due_days
from shared.report.figures import DayFigures, figures
from shared.report.mail import NotSent, PerhapsSent, deliver
from shared.report.rendering import make_mail
from shared.settings import ReportSettings

log = structlog.get_logger()

# Waits between attempts grow from a minute to an hour; after a day's attempts it is given up.
FIRST_WAIT, LONGEST_WAIT = 60, 3600
# Whoever claimed a report and is not heard of for so long has died before handing it over.
CLAIM_SECONDS = 300

Transaction = Callable[[], AbstractContextManager[Cursor]]

KNOWN = "SELECT day, status, due_at <= now() FROM daily_reports WHERE day >= %s"
BEGIN = """
INSERT INTO daily_reports (day, status) SELECT day, 'skipped' FROM unnest(%s::date[]) AS t (day)
WHERE NOT EXISTS (SELECT 1 FROM daily_reports)
ON CONFLICT DO NOTHING
"""
CLAIM = """
INSERT INTO daily_reports (day, status, attempts, due_at)
VALUES (%(day)s, 'connecting', 1, now() + %(claim)s * interval '1 second')
ON CONFLICT (day) DO UPDATE SET status = 'connecting', attempts = daily_reports.attempts + 1,
    due_at = excluded.due_at
WHERE daily_reports.status IN ('waiting', 'connecting') AND daily_reports.due_at <= now()
RETURNING attempts
"""
HAND_OVER = """
UPDATE daily_reports SET status = 'handing_over'
WHERE day = %s AND status = 'connecting' AND attempts = %s RETURNING 1
"""
SENT = """
UPDATE daily_reports SET status = 'sent', sent_at = now(), error = NULL
WHERE day = %s AND status = 'handing_over' AND attempts = %s
"""
FAILED = """
UPDATE daily_reports SET status = 'waiting', error = %s,
    due_at = now() + least(%s * 2 ^ least(attempts - 1, 10), %s) * interval '1 second'
WHERE day = %s AND status IN ('connecting', 'handing_over') AND attempts = %s
"""
DOUBT = """
UPDATE daily_reports SET status = 'in_doubt', error = %s
WHERE day = %s AND status = 'handing_over' AND attempts = %s
"""
FORGOTTEN = """
UPDATE daily_reports SET status = 'in_doubt', error = 'its sender ended while handing it over'
WHERE status = 'handing_over' AND due_at <= now()
"""


class _Overtaken(Exception):
    """Another process has claimed the report meanwhile."""


def waiting_days(transaction: Transaction, settings: ReportSettings, now: datetime) -> list[date]:
    """The days whose report is to be sent now; oldest first.

    A service that was only just installed owes none for the days before.
    """
    days = due_days(now, settings.report_time, settings.report_timezone)
    if not (days and settings.report_recipients and settings.smtp_url):
        return []
    with transaction() as cursor:
        cursor.execute(BEGIN, (days,))
        cursor.execute(FORGOTTEN)
        cursor.execute(KNOWN, (days[0],))
        known = {day: (status, due) for day, status, due in cursor.fetchall()}
    return [
        day
        for day in days
        if day not in known or (known[day][0] in ("waiting", "connecting") and known[day][1])
    ]


def send_report(transaction: Transaction, settings: ReportSettings, day: date) -> str:
    """Send a day's report unless somebody has or does; return what became of it."""
    with transaction() as cursor:
        cursor.execute(CLAIM, {"day": day, "claim": CLAIM_SECONDS})
        row = cursor.fetchone()
    if row is None:
        return "not due"
    (attempts,) = row
    mail = compose(transaction, settings, day, settings.report_recipients)

    def before_data() -> None:
        with transaction() as cursor:
            cursor.execute(HAND_OVER, (day, attempts))
            if cursor.fetchone() is None:
                raise _Overtaken

    bound = log.bind(day=day.isoformat(), attempt=attempts)
    try:
        assert settings.smtp_url is not None  # noqa: S101 (waiting_days asks)
        deliver(settings.smtp_url.get_secret_value(), mail, before_data)
    except _Overtaken:
        return "overtaken"
    except NotSent as error:
        with transaction() as cursor:
            cursor.execute(FAILED, (str(error), FIRST_WAIT, LONGEST_WAIT, day, attempts))
        bound.warning("report.failed", error=str(error))
        return "failed"
    except PerhapsSent as error:
        with transaction() as cursor:
            cursor.execute(DOUBT, (str(error), day, attempts))
        bound.error("report.in_doubt", error=str(error))
        return "in doubt"
    with transaction() as cursor:
        cursor.execute(SENT, (day, attempts))
    bound.info("report.sent", recipients=len(settings.report_recipients))
    return "sent"


def read_figures(transaction: Transaction, settings: ReportSettings, day: date) -> DayFigures:
    """A day's figures, all of one instant."""
    with transaction() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET LOCAL statement_timeout = '10min'")
        return figures(cursor, day, settings.report_timezone)


def compose(
    transaction: Transaction, settings: ReportSettings, day: date, recipients: list[str]
) -> EmailMessage:
    """A day's report as an e-mail to `recipients`."""
    return make_mail(
        read_figures(transaction, settings, day),
        settings.report_language,
        settings.report_from,
        recipients,
        settings.public_url,
    )
