"""Sends daily reports beside the worker's other jobs, which do not wait for the mail server."""

import atexit
import threading
from datetime import date

import structlog

from shared.config.settings import WorkerSettings
from shared.report.daily import DayNotOver, send_report
from worker.runtime.database import Database, DatabaseError
from worker.runtime.rq_worker import stopping

log = structlog.get_logger()

# A worker that ends gives a report so long to be handed over; after that it is in doubt, or is
# tried again by whoever comes next.
LEAVE_SECONDS = 8.0

# One report at a time: the next is asked for again by the sweep.
_busy = threading.Lock()


def start(settings: WorkerSettings, day: date, request_id: str | None) -> None:
    """Send a local day's report on a thread of its own, unless it is busy with one."""
    if stopping.is_set() or not _busy.acquire(blocking=False):
        return
    threading.Thread(
        target=_run, args=(settings, day, request_id), name=f"report-{day}", daemon=True
    ).start()


@atexit.register
def _leave() -> None:
    _busy.acquire(timeout=LEAVE_SECONDS)


def _run(settings: WorkerSettings, day: date, request_id: str | None) -> None:
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
