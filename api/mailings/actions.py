"""The steps of a mailing's life: start, pause, resume, cancel, retry what failed.

Each locks the mailing's row first and commits a state; the fleet follows it. Repeating a step that
has been taken is harmless; a step that the state does not allow is refused with the reason.
"""

from typing import Any

import structlog
from flask import Blueprint

from api import audit_log
from api.actor import current_actor
from api.db import database_now, db, session_cursor
from api.enqueue import enqueue_dispatch, enqueue_launch
from api.errors import Conflict
from api.mailings.routes import cancel, find_mailing
from api.mailings.schemas import MailingAnswer, present_mailing
from api.openapi.operation import operation
from shared.db.mailing_counts import read_mailing_counts
from shared.db.models import Mailing
from shared.domain.statuses import MailingStatus

log = structlog.get_logger()
blueprint = Blueprint("lifecycle", __name__)

SCHEDULED = MailingStatus.SCHEDULED
RUNNING = MailingStatus.RUNNING
PAUSED = MailingStatus.PAUSED
FINISHED = MailingStatus.FINISHED
CANCELLED = MailingStatus.CANCELLED

step = operation(
    "mailings", response=MailingAnswer, description="The mailing as it is now.", problems=(404, 409)
)


@blueprint.post("/mailings/<id:mailing_id>/start")
@step
def start_mailing(mailing_id: int) -> dict[str, Any]:
    """Start a scheduled mailing now

    Its `start_at` becomes the present instant. Harmless if it is running already.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status == RUNNING:
        return present_mailing(mailing)
    if mailing.status != SCHEDULED:
        hint = "; resume it instead" if mailing.status == PAUSED else ""
        raise Conflict(f"The mailing is {mailing.status}: only a scheduled one can start{hint}.")
    now = database_now()
    if mailing.end_at <= now:
        raise Conflict("The mailing's end has passed.")
    mailing.start_at = min(mailing.start_at, now)
    mailing.updated_at = now
    answer = _commit(mailing, "mailing.started")
    enqueue_launch(mailing, current_actor().request_id)
    return answer


@blueprint.post("/mailings/<id:mailing_id>/pause")
@step
def pause_mailing(mailing_id: int) -> dict[str, Any]:
    """Pause a mailing

    Nothing more is sent within a second. A scheduled mailing that is paused does not start.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status == PAUSED:
        return present_mailing(mailing)
    _refuse_ended(mailing, "paused")
    mailing.status = PAUSED
    mailing.updated_at = database_now()
    return _commit(mailing, "mailing.paused")


@blueprint.post("/mailings/<id:mailing_id>/resume")
@step
def resume_mailing(mailing_id: int) -> dict[str, Any]:
    """Resume a paused mailing

    It goes on where it stopped; one that had not started starts at its time, or at once if that has
    come.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status in (RUNNING, SCHEDULED):
        return present_mailing(mailing)
    _refuse_ended(mailing, "resumed")
    now = database_now()
    if mailing.end_at <= now:
        raise Conflict("The mailing's end has passed: it cannot be resumed.")
    mailing.status = SCHEDULED if mailing.started_at is None else RUNNING
    mailing.updated_at = now
    answer = _commit(mailing, "mailing.resumed")
    if mailing.status == SCHEDULED:
        enqueue_launch(mailing, current_actor().request_id)
    else:
        enqueue_dispatch(mailing, current_actor().request_id)
    return answer


@blueprint.post("/mailings/<id:mailing_id>/cancel")
@step
def cancel_mailing(mailing_id: int) -> dict[str, Any]:
    """Cancel a mailing for good

    Nothing more is sent within a second, and what is pending becomes cancelled. A request that is
    in flight is awaited: if the provider accepts it, its message is sent after all.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status == CANCELLED:
        return present_mailing(mailing)
    _refuse_ended(mailing, "cancelled")
    cancel(mailing, database_now())
    answer = _commit(mailing, "mailing.cancelled")
    if not mailing.settled:
        enqueue_dispatch(mailing, current_actor().request_id)
    return answer


@blueprint.post("/mailings/<id:mailing_id>/retry-failed")
@step
def retry_failed(mailing_id: int) -> dict[str, Any]:
    """Try the failed messages again

    They become pending and their attempts start anew; a finished mailing runs again. Possible
    before the mailing's end.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status not in (RUNNING, PAUSED, FINISHED):
        raise Conflict(f"The mailing is {mailing.status}: nothing of it can be tried again.")
    now = database_now()
    # A second statement after the lock: counts seen beside it could be older than the lock.
    failed = read_mailing_counts(session_cursor(), mailing_id).failed
    if failed == 0 and mailing.retry_version > 0 and mailing.status != FINISHED:
        return present_mailing(mailing)
    if mailing.end_at <= now:
        raise Conflict("The mailing's end has passed: nothing can be sent any more.")
    if failed == 0:
        raise Conflict("No message of the mailing has failed.")
    mailing.retry_version += 1
    mailing.settled = False
    mailing.updated_at = now
    if mailing.status == FINISHED:
        mailing.status = RUNNING
        mailing.finished_at = None
    answer = _commit(mailing, "mailing.retry_requested", messages=failed)
    enqueue_dispatch(mailing, current_actor().request_id)
    return answer


def _refuse_ended(mailing: Mailing, wanted: str) -> None:
    if mailing.status in (FINISHED, CANCELLED):
        raise Conflict(f"The mailing is {mailing.status}: it cannot be {wanted}.")


def _commit(mailing: Mailing, event: str, **more: Any) -> dict[str, Any]:
    db.session.flush()
    what = event.removeprefix("mailing.")
    audit_log.record_change(
        current_actor(), what, "mailing", mailing.id, {"status": mailing.status, **more}
    )
    answer = present_mailing(mailing)
    db.session.commit()
    log.info(event, **more)
    return answer
