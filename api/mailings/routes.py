"""Mailings: made, listed, changed while that is possible, deleted."""

from datetime import datetime, timedelta
from typing import Any

import structlog
from flask import Blueprint
from sqlalchemy import select

from api import audit_log
from api.actor import Actor, current_actor
from api.db import database_now, db, session_cursor
from api.enqueue import enqueue_dispatch, enqueue_launch
from api.errors import Conflict, FieldError, InvalidFields, NotFound
from api.http.idempotency import REPLAYED_HEADER, read_idempotency_key
from api.http.pagination import build_page
from api.idempotency import IdempotencyKey
from api.mailings.schemas import (
    Filter,
    MailingAnswer,
    MailingChanges,
    MailingPage,
    MailingQuery,
    NewMailing,
    WindowHours,
    present_mailing,
)
from api.openapi.operation import operation
from shared.db import status_changes
from shared.db.audience import FILTER_COLUMNS
from shared.db.models import Mailing, MailingText
from shared.domain.statuses import MailingStatus

log = structlog.get_logger()
blueprint = Blueprint("mailings", __name__)

ENDED = {MailingStatus.FINISHED, MailingStatus.CANCELLED}
# Which columns a field of the API stands for.
COLUMNS = {
    "start_at": ("start_at",),
    "filter": FILTER_COLUMNS,
    "name": ("name",),
    "text": ("text",),
    "end_at": ("end_at",),
    "window": ("window_from", "window_to"),
    "rate_limit": ("rate_limit",),
}
# What is settled once the audience is being chosen.
FROZEN_BY_LAUNCH = ("start_at", "filter")
# An end is judged by several clocks; nearer than this they might disagree. Cancelling is for now.
SHORTEST_NOTICE = timedelta(seconds=3)


@blueprint.post("/mailings")
@operation(
    "mailings",
    response=MailingAnswer,
    status=201,
    description="The mailing as it was made.",
    body=NewMailing,
    idempotent=True,
)
def create_mailing(body: NewMailing) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Create a mailing

    It starts by itself at `start_at`, or at once if that has come. Its audience is chosen then.
    Send the header `Idempotency-Key`, so that sending the request again makes no second mailing.
    """
    actor = current_actor()
    answer, replayed = add_mailing(body, actor, read_idempotency_key(body, actor))
    headers = {"Location": f"/api/v1/mailings/{answer['id']}"}
    return answer, 201, headers | ({REPLAYED_HEADER: "true"} if replayed else {})


@blueprint.get("/mailings")
@operation("mailings", response=MailingPage, description="A page of mailings.", query=MailingQuery)
def list_mailings(query: MailingQuery) -> dict[str, Any]:
    """List mailings

    By id, the oldest first.
    """
    found = select(Mailing).where(Mailing.id > query.cursor, Mailing.deleted_at.is_(None))
    if query.status is not None:
        found = found.where(Mailing.status == query.status)
    rows = db.session.scalars(found.order_by(Mailing.id).limit(query.limit + 1)).all()
    return build_page(rows, query.limit, present_mailing, lambda mailing: mailing.id)


@blueprint.get("/mailings/<id:mailing_id>")
@operation("mailings", response=MailingAnswer, description="The mailing.", problems=(404,))
def get_mailing(mailing_id: int) -> dict[str, Any]:
    """Get a mailing"""
    return present_mailing(find_mailing(mailing_id))


@blueprint.patch("/mailings/<id:mailing_id>")
@operation(
    "mailings",
    response=MailingAnswer,
    description="The mailing as it is now.",
    body=MailingChanges,
    problems=(404, 409),
)
def change_mailing(mailing_id: int, body: MailingChanges) -> dict[str, Any]:
    """Change a mailing

    Before its launch everything may change. Afterwards `name`, `text`, `end_at`, `window` and
    `rate_limit` may; they apply to what was not yet attempted. A finished or cancelled mailing
    cannot change.
    """
    mailing = find_mailing(mailing_id, lock=True)
    now = database_now()
    before = {name: _get(mailing, name) for name in COLUMNS}
    audited = _audited(mailing)
    given = body.given()
    for name, value in given.items():
        _set(mailing, name, value)
    changed = [name for name in COLUMNS if _get(mailing, name) != before[name]]
    _check_change(mailing, given, changed, now)
    if "filter" in changed:
        _check_excluded(mailing)
    if changed:
        mailing.updated_at = now
    if "text" in changed:
        mailing.text_version += 1
        version = MailingText(
            mailing_id=mailing.id, version=mailing.text_version, text=mailing.text
        )
        db.session.add(version)
    if "window" in changed and mailing.started_at is not None:
        status_changes.reschedule_batches(session_cursor(), mailing_id)
    if changed:
        changes = audit_log.diff_fields(audited, _audited(mailing))
        audit_log.record_change(current_actor(), "updated", "mailing", mailing_id, changes)
    answer = present_mailing(mailing)
    db.session.commit()
    if changed:
        log.info("mailing.updated", mailing_id=mailing_id, changed=changed)
        if mailing.status == MailingStatus.RUNNING:
            enqueue_dispatch(mailing, current_actor().request_id)
        elif mailing.status == MailingStatus.SCHEDULED and "start_at" in changed:
            enqueue_launch(mailing, current_actor().request_id)
    return answer


@blueprint.delete("/mailings/<id:mailing_id>")
@operation(
    "mailings", response=None, status=204, description="The mailing is gone.", problems=(404,)
)
def delete_mailing(mailing_id: int) -> tuple[str, int]:
    """Delete a mailing

    Stops its sending within a second, and removes it from lists and statistics.
    """
    mailing = find_mailing(mailing_id, lock=True)
    now = database_now()
    if mailing.status not in ENDED:
        cancel(mailing, now)
    mailing.deleted_at = mailing.updated_at = now
    audit_log.record_change(current_actor(), "deleted", "mailing", mailing_id)
    db.session.commit()
    log.info("mailing.deleted", mailing_id=mailing_id)
    if not mailing.settled:
        enqueue_dispatch(mailing, current_actor().request_id)
    return "", 204


def add_mailing(
    body: NewMailing, actor: Actor, key: IdempotencyKey | None = None
) -> tuple[dict[str, Any], bool]:
    """Create a mailing; return it as the API presents it, and whether the key was used before."""
    if key is not None and (first := key.claim()) is not None:
        return first, True
    mailing = draft(body, database_now())
    mailing.request_id = actor.request_id
    db.session.add(mailing)
    db.session.flush()
    db.session.add(MailingText(mailing_id=mailing.id, version=1, text=mailing.text))
    answer = present_mailing(mailing)
    if key is not None:
        key.store(answer)
    changes = audit_log.diff_fields({}, _audited(mailing))
    audit_log.record_change(actor, "created", "mailing", mailing.id, changes)
    db.session.commit()
    structlog.contextvars.bind_contextvars(mailing_id=mailing.id)
    log.info("mailing.created", start_at=answer["start_at"])
    enqueue_launch(mailing, actor.request_id)
    return answer, False


def find_mailing(mailing_id: int, *, lock: bool = False) -> Mailing:
    """A mailing that is not deleted. Whoever changes its status locks it, then looks further."""
    found = select(Mailing).where(Mailing.id == mailing_id, Mailing.deleted_at.is_(None))
    if lock:
        found = found.with_for_update(key_share=True)
    mailing = db.session.scalar(found)
    if mailing is None:
        raise NotFound("There is no such mailing.")
    return mailing


def draft(body: NewMailing, now: datetime) -> Mailing:
    """The mailing that a body describes, not yet kept; refused if it could never be sent."""
    mailing = Mailing()
    for name, value in body:
        _set(mailing, name, value)
    _check_times(mailing)
    if mailing.end_at <= now:
        raise InvalidFields(
            FieldError("has passed already: the mailing would never be sent", "past", "/end_at")
        )
    _check_excluded(mailing)
    return mailing


def cancel(mailing: Mailing, now: datetime) -> None:
    """End a locked mailing. Its messages follow batch by batch; without any, all is settled."""
    mailing.status = MailingStatus.CANCELLED
    mailing.finished_at = mailing.updated_at = now
    mailing.settled = mailing.started_at is None


def _audited(mailing: Mailing) -> dict[str, Any]:
    """What the audit log keeps of a mailing: of its text and of listed phones, only how long."""
    answer = present_mailing(mailing)
    kept = {name: answer[name] for name in COLUMNS}
    kept["text"] = {"version": mailing.text_version, "length": len(mailing.text)}
    phones = kept["filter"].get("phones")
    return kept | {"filter": kept["filter"] | ({"phones": len(phones)} if phones else {})}


def _get(mailing: Mailing, field: str) -> tuple[Any, ...]:
    return tuple(getattr(mailing, column) for column in COLUMNS[field])


def _set(mailing: Mailing, field: str, value: Any) -> None:
    match value:
        case WindowHours():
            values: tuple[Any, ...] = (value.start, value.end)
        case Filter():
            values = (
                value.operator_codes,
                value.tags,
                value.timezones,
                value.attributes,
                value.exclude_mailing_ids,
                [int(phone) for phone in value.phones],
            )
        case _:
            values = (value,) * len(COLUMNS[field])
    for column, each in zip(COLUMNS[field], values, strict=True):
        setattr(mailing, column, each)


def _check_times(mailing: Mailing) -> None:
    if mailing.start_at >= mailing.end_at:
        raise InvalidFields(
            FieldError("must be later than start_at", "end_before_start", "/end_at")
        )


def _check_excluded(mailing: Mailing) -> None:
    """Refuse to leave out who was sent a mailing that does not exist: that is a slip."""
    ids = mailing.exclude_mailing_ids
    if not ids:
        return
    found = select(Mailing.id).where(Mailing.id.in_(ids), Mailing.deleted_at.is_(None))
    known = set(db.session.scalars(found))
    faults = [
        FieldError("there is no such mailing", "unknown", f"/filter/exclude_mailing_ids/{index}")
        for index, mailing_id in enumerate(ids)
        if mailing_id not in known
    ]
    if faults:
        raise InvalidFields(*faults)


def _check_change(
    mailing: Mailing, given: dict[str, Any], changed: list[str], now: datetime
) -> None:
    if mailing.status in ENDED and given:
        raise Conflict(f"The mailing is {mailing.status} and cannot change any more.")
    frozen = [name for name in FROZEN_BY_LAUNCH if name in changed]
    if frozen and mailing.started_at is not None:
        raise Conflict(
            f"{' and '.join(frozen)} cannot change any more: the mailing was launched, "
            "and its audience is chosen."
        )
    _check_times(mailing)
    if "end_at" in changed and mailing.end_at < now + SHORTEST_NOTICE:
        raise InvalidFields(
            FieldError(
                "must be at least 3 seconds ahead; to stop now, cancel", "too_soon", "/end_at"
            )
        )
