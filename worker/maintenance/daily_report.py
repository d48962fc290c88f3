"""Send daily reports on a thread, so that other jobs do not wait for the mail server."""

import atexit
import threading
from datetime import date

import structlog

from shared.config.settings import WorkerSettings
from shared.report.daily import DayNotOver, send_report
from worker.runtime.database import Database, DatabaseError
from worker.runtime.rq_worker import stopping

log = structlog.get_logger()

# A stopping worker waits this long for the mail server. After that the report is in doubt, or the
# next worker tries again.
EXIT_WAIT_SECONDS = 8.0

# One report at a time: the sweep enqueues the next one again.
_busy = threading.Lock()


def start_daily_report(settings: WorkerSettings, day: date, request_id: str | None) -> None:
    """Send a local day's report on a thread, unless one is being sent or the worker stops."""
    if stopping.is_set() or not _busy.acquire(blocking=False):
        return
    threading.Thread(
        target=_send_report, args=(settings, day, request_id), name=f"report-{day}", daemon=True
    ).start()


@atexit.register
def _wait_at_exit() -> None:
    _busy.acquire(timeout=EXIT_WAIT_SECONDS)


def _send_report(settings: WorkerSettings, day: date, request_id: str | None) -> None:
    db = Database(settings.database_url, "notification-report")
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        try:
            send_report(db.transaction, settings, day)
        except DayNotOver:
            log.warning("report.failed", day=day.isoformat(), error="the day is not over")
        except DatabaseError as error:
            log.warning("database.unavailable", what="report", error=str(error).strip())
        except Exception:
            log.exception("report.failed", day=day.isoformat())
        finally:
            db.close()
            _busy.release()
