"""Undo the last import: whether it is possible, and its request, which a worker carries out."""

from datetime import datetime

import structlog
from sqlalchemy import func, or_, select

from api.actor import Actor
from api.audit_log import service as audit_log
from api.clients.import_service import get_import
from api.db import database_now, db, session_cursor
from api.enqueue import job_queues
from api.errors import Conflict
from api.limits.concurrency import ConcurrencyLimit
from shared.client_import.undo import count_edited, count_used
from shared.db.import_models import Import, ImportUndo
from shared.domain.error_texts import error_text
from shared.domain.statuses import ImportStatus

log = structlog.get_logger()

# Mailings that a refusal names.
MAX_NAMED_MAILINGS = 20
# Counting reads the messages of every mailing since the import.
COUNT_TIMEOUT = "SET LOCAL statement_timeout = '60s'"
UNDOS = ConcurrencyLimit(error_text("undos"), per_process=2, per_caller=2, retry_after=5)


def request_undo(import_id: int, actor: Actor, *, keep_edited: bool = False) -> Import:
    """Begin to undo an import: delete the clients it created, restore those it changed.

    `keep_edited` leaves clients as they are that were edited since; without it they are a conflict.
    Raise NotFound, Conflict, or RateLimited.
    """
    get_import(import_id)
    with UNDOS.admitting(actor.name):
        found = _record_request(import_id, actor, keep_edited)
    job_queues().enqueue_import_undo(import_id, actor.request_id)
    db.session.refresh(found)
    return found


def find_undo_end(found: Import) -> datetime | None:
    """Return until when an import may be undone; None if it is too late, or not yet time.

    Whether clients were used or edited since is not looked at.
    """
    if found.undo_until is None or _find_obstacle(found) is not None:
        return None
    return found.undo_until


def _record_request(import_id: int, actor: Actor, keep_edited: bool) -> Import:
    locked = select(Import).where(Import.id == import_id).with_for_update(key_share=True, of=Import)
    found = db.session.scalars(locked.execution_options(populate_existing=True)).one()
    try:
        if (obstacle := _find_obstacle(found)) is not None:
            raise obstacle
        _check_clients(found, keep_edited)
    except Conflict as refusal:
        db.session.rollback()
        log.info("import.undo_refused", import_id=import_id, reason=refusal.code)
        raise
    db.session.add(ImportUndo(import_id=import_id, requested_by=actor.name))
    db.session.flush()
    changes = {"created": found.created, "updated": found.updated}
    audit_log.record_change(actor, "undone", "import", import_id, changes)
    db.session.commit()
    log.info("import.undo_requested", import_id=import_id, keep_edited=keep_edited)
    return found


def _find_obstacle(found: Import) -> Conflict | None:
    """Return what is against an undo besides its clients."""
    if found.undo is not None:
        at = found.undo.requested_at.isoformat(timespec="seconds")
        return Conflict(error_text("Its undo was requested at %(at)s.", at=at), "import_undone")
    if found.status not in (ImportStatus.FINISHED, ImportStatus.FAILED):
        return Conflict(
            error_text("The import is still running: wait until it is finished."), "import_running"
        )
    later = _find_later(found)
    if later is not None:
        return Conflict(
            error_text("Import %(id)s came later: only the last one can be undone.", id=later),
            "import_not_last",
            import_id=later,
        )
    if found.undo_until is None or found.undo_until <= database_now():
        return Conflict(
            error_text("The earlier values of its clients are no longer kept."), "undo_expired"
        )
    if found.undoable != found.created + found.updated:
        return Conflict(
            error_text(
                "A worker of an earlier version imported a part of it, without the earlier values."
            ),
            "undo_expired",
        )
    return None


def _find_later(found: Import) -> int | None:
    """Return a later import that changes clients."""
    received = func.coalesce(Import.received_at, Import.created_at)
    changes = or_(Import.status == ImportStatus.RUNNING, Import.created + Import.updated > 0)
    later = select(Import.id).where(
        Import.status != ImportStatus.RECEIVING,
        received > (found.received_at or found.created_at),
        changes,
    )
    return db.session.scalar(later.order_by(Import.id.desc()).limit(1))


def _check_clients(found: Import, keep_edited: bool) -> None:
    """Raise Conflict if a mailing has used clients of the import, or they were edited since."""
    cursor = session_cursor()
    cursor.execute(COUNT_TIMEOUT)
    used = count_used(cursor, found.id)
    if used:
        mailing, clients = used[0]
        detail = error_text(
            "Mailing %(mailing)s has used %(clients)s clients of this import since. What was sent "
            "cannot be undone: correct the clients with another import.",
            mailing=mailing,
            clients=clients,
        )
        if len(used) > 1:
            detail = error_text(
                "%(detail)s (%(more)s more mailings have used its clients.)",
                detail=detail,
                more=len(used) - 1,
            )
        named = [{"id": id_, "clients": n} for id_, n in used[:MAX_NAMED_MAILINGS]]
        raise Conflict(detail, "import_used", mailings=named)
    if keep_edited:
        return
    first, last = found.first_client_id or 1, found.last_client_id or 0
    edited = count_edited(cursor, found.id, first - 1, last)
    if edited:
        raise Conflict(
            error_text(
                "%(n)s clients of this import were edited since. With keep_edited=true they stay as"
                " they are, and the others are undone.",
                n=edited,
            ),
            "clients_edited",
            edited=edited,
        )
