"""The report process: sends each day's report when it is due, and mails about mailings' events."""

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog

from shared.config.settings import ReportSettings
from shared.report.daily import DayNotOver, find_due_days, send_report
from shared.report.delivery import Transaction
from shared.report.notifications import (
    find_due_notifications,
    record_late_mailings,
    send_notification,
)
from worker.runtime.database import Database, DatabaseError
from worker.runtime.heartbeat import touch_heartbeat

log = structlog.get_logger()

CHECK_SECONDS = 20.0
NOTIFICATION_SECONDS = 5.0
LATE_CHECK_SECONDS = 60.0
# A stopping process waits this long for the mail server. After that the report is in doubt, or the
# next process tries again.
EXIT_WAIT_SECONDS = 8.0
JOIN_SECONDS = 1.0


def send_reports(settings: ReportSettings, stopping: threading.Event) -> None:
    """Send the mails that are due, until `stopping` is set.

    Several processes may do so: the rows of the mails coordinate them.
    """
    db = Database(settings.database_url, "notification-report")
    days_checked = late_checked = float("-inf")
    while not stopping.is_set():
        touch_heartbeat()
        now = time.monotonic()
        mails: list[Callable[[Transaction], object]] = []
        try:
            if now - days_checked >= CHECK_SECONDS:
                days_checked = now
                days = find_due_days(db.transaction, settings)
                mails += [partial(send_report, settings=settings, day=day) for day in days]
            if settings.smtp_url is not None and now - late_checked >= LATE_CHECK_SECONDS:
                late_checked = now
                record_late_mailings(db.transaction, settings)
            mails += [
                partial(send_notification, settings=settings, notification_id=notification_id)
                for notification_id in find_due_notifications(db.transaction, settings)
            ]
        except DatabaseError as error:
            _log_database_error(error)
        for send in mails:
            if stopping.is_set():
                break
            touch_heartbeat()
            _send_on_thread(settings, send, stopping)
        stopping.wait(NOTIFICATION_SECONDS)
    db.close()


def _send_on_thread(
    settings: ReportSettings, send: Callable[[Transaction], object], stopping: threading.Event
) -> None:
    """Send a mail; when `stopping` is set, leave it to itself after a while.

    A thread, because a query or an answer of the mail server can take minutes, in which the main
    thread would handle no signal.
    """
    sender = threading.Thread(target=_send_mail, args=(settings, send), name="mail", daemon=True)
    sender.start()
    while sender.is_alive() and not stopping.is_set():
        sender.join(JOIN_SECONDS)
    sender.join(EXIT_WAIT_SECONDS)


def _send_mail(settings: ReportSettings, send: Callable[[Transaction], object]) -> None:
    db = Database(settings.database_url, "notification-report")
    try:
        send(db.transaction)
    except DayNotOver:
        log.warning("report.failed", error="the day is not over")
    except DatabaseError as error:
        _log_database_error(error)
    except Exception:  # the end of a thread: logged, as nothing else would see it
        log.exception("mail.failed")
    finally:
        db.close()


def _log_database_error(error: DatabaseError) -> None:
    log.warning("database.unavailable", what="report", error=str(error).strip())
