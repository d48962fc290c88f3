"""The report process: sends each day's report when it is due."""

import threading
from datetime import date

import structlog

from shared.config.settings import ReportSettings
from shared.report.daily import DayNotOver, find_due_days, send_report
from worker.runtime.database import Database, DatabaseError
from worker.runtime.heartbeat import touch_heartbeat

log = structlog.get_logger()

CHECK_SECONDS = 20.0
# A stopping process waits this long for the mail server. After that the report is in doubt, or the
# next process tries again.
EXIT_WAIT_SECONDS = 8.0
JOIN_SECONDS = 1.0


def send_reports(settings: ReportSettings, stopping: threading.Event) -> None:
    """Send the report of each day that is due, until `stopping` is set.

    Several processes may do so: rows of daily_reports coordinate them.
    """
    db = Database(settings.database_url, "notification-report")
    while not stopping.is_set():
        touch_heartbeat()
        try:
            days = find_due_days(db.transaction, settings)
        except DatabaseError as error:
            _log_database_error(error)
            days = []
        for day in days:
            if stopping.is_set():
                break
            touch_heartbeat()
            _send_on_thread(settings, day, stopping)
        stopping.wait(CHECK_SECONDS)
    db.close()


def _send_on_thread(settings: ReportSettings, day: date, stopping: threading.Event) -> None:
    """Send a day's report; when `stopping` is set, leave it to itself after a while.

    A thread, because a query or an answer of the mail server can take minutes, in which the main
    thread would handle no signal.
    """
    sender = threading.Thread(
        target=_send_report, args=(settings, day), name=f"report-{day}", daemon=True
    )
    sender.start()
    while sender.is_alive() and not stopping.is_set():
        sender.join(JOIN_SECONDS)
    sender.join(EXIT_WAIT_SECONDS)


def _send_report(settings: ReportSettings, day: date) -> None:
    db = Database(settings.database_url, "notification-report")
    try:
        send_report(db.transaction, settings, day)
    except DayNotOver:
        log.warning("report.failed", day=day.isoformat(), error="the day is not over")
    except DatabaseError as error:
        _log_database_error(error)
    except Exception:  # the end of a thread: logged, as nothing else would see it
        log.exception("report.failed", day=day.isoformat())
    finally:
        db.close()


def _log_database_error(error: DatabaseError) -> None:
    log.warning("database.unavailable", what="report", error=str(error).strip())
