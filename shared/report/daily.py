"""Who sends which day's report, once: the database decides."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from email.message import EmailMessage
from email.utils import make_msgid

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.config.settings import ReportSettings
from shared.db.rows import fetch_one_row
from shared.report.days import day_bounds, due_days
from shared.report.figures import DayFigures, read_day_figures
from shared.report.mail import NotSent, SentInDoubt, deliver_mail
from shared.report.rendering import make_mail

log = structlog.get_logger()

# Waits between attempts double from a minute to an hour, as long as the day is caught up.
FIRST_WAIT, LONGEST_WAIT = 60, 3600
# Whoever claimed a report and is not heard of for so long has died. Longer than a server that
# answers slowly can keep a sender.
CLAIM_SECONDS = 300

Transaction = Callable[[], AbstractContextManager[Cursor]]

KNOWN = """
SELECT day, status IN ('waiting', 'connecting') AND due_at <= now() FROM daily_reports
WHERE day = ANY (%s)
"""
# Who never had a report is owed none for the days before.
BEGIN = """
INSERT INTO daily_reports (day, status) SELECT day, 'skipped' FROM unnest(%s::date[]) AS t (day)
WHERE NOT EXISTS (SELECT 1 FROM daily_reports)
ON CONFLICT DO NOTHING
"""
# By its own time, or `asked` for by a person: then a skipped day counts, and the wait is cut short.
CLAIM = """
INSERT INTO daily_reports (day, status, attempts, due_at)
VALUES (%(day)s, 'connecting', 1, now() + %(claim)s * interval '1 second')
ON CONFLICT (day) DO UPDATE SET status = 'connecting', attempts = daily_reports.attempts + 1,
    due_at = excluded.due_at
WHERE daily_reports.status IN ('waiting', 'connecting') AND daily_reports.due_at <= now()
    OR %(asked)s AND daily_reports.status IN ('waiting', 'skipped')
RETURNING attempts, served
"""
HAND_OVER = """
UPDATE daily_reports SET status = 'handing_over', due_at = now() + %s * interval '1 second'
WHERE day = %s AND status = 'connecting' AND attempts = %s RETURNING 1
"""
SENT = """
UPDATE daily_reports SET status = 'sent', sent_at = now(), served = served || %s, error = %s
WHERE day = %s AND status IN ('handing_over', 'in_doubt') AND attempts = %s
"""
# `served` have it; the others are tried again.
WAIT = """
UPDATE daily_reports SET status = 'waiting', served = served || %s, error = %s,
    due_at = now() + least(%s * 2 ^ least(attempts - 1, 10), %s) * interval '1 second'
WHERE day = %s AND status IN ('connecting', 'handing_over') AND attempts = %s
"""
DOUBT = """
UPDATE daily_reports SET status = 'in_doubt', error = %s
WHERE day = %s AND status = 'handing_over' AND attempts = %s
"""
FORGOTTEN = """
UPDATE daily_reports SET status = 'in_doubt', error = 'its sender ended while handing it over'
WHERE status = 'handing_over' AND due_at <= now() RETURNING day
"""


class DayNotOver(Exception):
    """The day asked for has not ended yet."""


class _ClaimLost(Exception):
    """Another process has claimed the report meanwhile."""


def find_due_days(transaction: Transaction, settings: ReportSettings) -> list[date]:
    """The days whose report is to be sent now, by PostgreSQL's clock; oldest first."""
    if not (settings.report_recipients and settings.smtp_url):
        return []
    with transaction() as cursor:
        days = _begin(cursor, settings)
        cursor.execute(FORGOTTEN)
        for (day,) in cursor.fetchall():
            log.error("report.in_doubt", day=day.isoformat(), error="its sender has vanished")
        cursor.execute(KNOWN, (days,))
        known = dict(cursor.fetchall())
    return [day for day in days if known.get(day, True)]


def send_report(
    transaction: Transaction, settings: ReportSettings, day: date, *, asked: bool = False
) -> str:
    """Send a day's report, unless somebody has or does; say what became of it.

    "sent", "failed" (it is tried again), "in doubt" (only the mail server knows), or "not due".
    `asked`: a person wants it now. Raises DayNotOver.
    """
    with transaction() as cursor:
        _begin(cursor, settings)
        cursor.execute("SELECT now() < %s", (day_bounds(day, settings.report_timezone)[1],))
        if fetch_one_row(cursor)[0]:
            raise DayNotOver
    # Before the claim, which may then be short; reading a day of millions takes its time.
    day_figures = read_figures(transaction, settings, day)
    with transaction() as cursor:
        cursor.execute(CLAIM, {"day": day, "claim": CLAIM_SECONDS, "asked": asked})
        row = cursor.fetchone()
    if row is None:
        return "not due"
    attempt, served = row
    recipients = [r for r in settings.report_recipients if r not in served]
    bound = log.bind(day=day.isoformat(), attempt=attempt)

    def before_data() -> None:
        with transaction() as cursor:
            cursor.execute(HAND_OVER, (CLAIM_SECONDS, day, attempt))
            if cursor.fetchone() is None:
                raise _ClaimLost

    def wait(served: list[str], error: str) -> str:
        with transaction() as cursor:
            cursor.execute(WAIT, (served, error, FIRST_WAIT, LONGEST_WAIT, day, attempt))
        bound.warning("report.failed", error=error)
        return "failed"

    mail = _mail(day_figures, settings, settings.report_recipients)
    try:
        refused = deliver_mail(_smtp_url(settings), mail, recipients, before_data)
    except _ClaimLost:
        return "not due"
    except NotSent as error:
        return wait([], str(error))
    except SentInDoubt as error:
        with transaction() as cursor:
            cursor.execute(DOUBT, (str(error), day, attempt))
        bound.error("report.in_doubt", error=str(error))
        return "in doubt"
    taken = [r for r in recipients if r not in refused]
    problem = "; ".join(f"{r}: {why}" for r, why in refused.items()) or None
    if problem and any(why.startswith("4") for why in refused.values()):
        return wait(taken, problem)
    with transaction() as cursor:
        cursor.execute(SENT, (taken, problem, day, attempt))
    bound.info("report.sent", recipients=len(taken), refused=len(refused))
    return "sent"


def send_report_copy(
    transaction: Transaction, settings: ReportSettings, day: date, recipients: list[str]
) -> dict[str, str]:
    """Send a day's report to these, whoever else has it; the refused ones with the answers.

    Raises NotSent or SentInDoubt.
    """
    mail = compose_report(transaction, settings, day, recipients)
    # Who has the report already is to see the copy as well.
    del mail["Message-ID"]
    mail["Message-ID"] = make_msgid("report", settings.report_from.rpartition("@")[2].rstrip(">"))
    return deliver_mail(_smtp_url(settings), mail, recipients)


def read_figures(transaction: Transaction, settings: ReportSettings, day: date) -> DayFigures:
    """A day's figures, all of one instant."""
    with transaction() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SET LOCAL statement_timeout = '10min'")
        return read_day_figures(cursor, day, settings.report_timezone)


def compose_report(
    transaction: Transaction, settings: ReportSettings, day: date, recipients: list[str]
) -> EmailMessage:
    """A day's report as an e-mail to `recipients`."""
    return _mail(read_figures(transaction, settings, day), settings, recipients)


def _mail(figures: DayFigures, settings: ReportSettings, recipients: list[str]) -> EmailMessage:
    language, sender = settings.report_language, settings.report_from
    return make_mail(figures, language, sender, recipients, settings.public_url)


def _smtp_url(settings: ReportSettings) -> str:
    if settings.smtp_url is None:
        raise NotSent("SMTP_URL is not set")
    return settings.smtp_url.get_secret_value()


def _begin(cursor: Cursor, settings: ReportSettings) -> list[date]:
    """The days whose report should be out by now; if there never was one, they are skipped."""
    cursor.execute("SELECT now()")
    days = due_days(fetch_one_row(cursor)[0], settings.report_time, settings.report_timezone)
    cursor.execute(BEGIN, (days,))
    return days
