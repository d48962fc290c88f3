"""Create, read, change and delete mailings."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Self

import structlog
from sqlalchemy import ColumnElement, or_, select

from api.actor import Actor
from api.audit_log import service as audit_log
from api.budgets import set_budget
from api.cursors import Page, between
from api.db import database_now, db, limited_search, session_cursor
from api.edit_versions import check_version
from api.enqueue import enqueue_dispatch, enqueue_launch
from api.errors import FieldError, InvalidFields, NotFound
from api.idempotency import IdempotencyKey
from api.mailings.action_rules import RULES, Action
from api.mailings.creation import creating_cursor, insert_mailing, read_clock_and_launch_delay
from api.mailings.edit_rules import check_change, check_end_after_launch, delay_launch
from api.mailings.mailing_checks import check_excluded, check_margin, check_times
from api.mailings.schemas import MailingChanges, MailingQuery, NewMailing, present_mailing
from api.schemas.limits import store_limit
from api.sending_rules import check_budget, require_new_workers
from shared.db import status_changes
from shared.db.audience import FILTER_COLUMNS
from shared.db.models import Mailing, MailingText
from shared.db.policy import read_effective_limits
from shared.domain.error_texts import error_text
from shared.domain.send_windows import Window, make_window
from shared.domain.statuses import MailingStatus

log = structlog.get_logger()

# The columns that each field of the API stands for.
FIELD_COLUMNS = {
    "start_at": ("start_at",),
    "filter": FILTER_COLUMNS,
    "name": ("name",),
    "text": ("text",),
    "end_at": ("end_at",),
    "window": ("window_from", "window_to"),
    "rate_limit": ("rate_limit",),
    "max_audience": ("max_audience",),
    "stop_when": ("stop_when",),
    "budget": ("budget",),
}
LIMITS = ("max_audience", "stop_when", "budget")


class MailingSearch(NamedTuple):
    """What the mailings of a list must have; None means anything."""

    status: Sequence[MailingStatus] | None = None
    search: str | None = None
    start_since: datetime | None = None
    start_until: datetime | None = None
    created_since: datetime | None = None
    created_until: datetime | None = None

    @classmethod
    def from_query(cls, query: MailingQuery) -> Self:
        return cls(**{name: getattr(query, name) for name in cls._fields})

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return the SQL conditions of this search; deleted mailings are never found."""
        return [
            Mailing.deleted_at.is_(None),
            *([] if self.status is None else [Mailing.status.in_(self.status)]),
            *map(_contains, (self.search or "").split()),
            *between(Mailing.start_at, self.start_since, self.start_until),
            *between(Mailing.created_at, self.created_since, self.created_until),
        ]


def _contains(word: str) -> ColumnElement[bool]:
    return or_(*(c.icontains(word, autoescape=True) for c in (Mailing.name, Mailing.text)))


class CreatedMailing(NamedTuple):
    """A mailing as it was presented when created; `replayed` if an earlier request created it."""

    presented: dict[str, Any]
    replayed: bool


def create_mailing(
    body: NewMailing, actor: Actor, key: IdempotencyKey | None = None
) -> CreatedMailing:
    """Create and schedule a mailing.

    With `key`, a repetition of an earlier request creates nothing and returns the first result.
    Raise InvalidFields if the mailing could never be sent.
    """
    if key is not None and (first := key.claim()) is not None:
        structlog.contextvars.bind_contextvars(mailing_id=first["id"])
        return CreatedMailing(first, replayed=True)
    in_session = key is not None or body.budget is not None
    with creating_cursor(in_session=in_session) as cursor:
        now, launch_delay = read_clock_and_launch_delay(cursor)
    mailing = draft_mailing(body, now, launch_delay)
    if mailing.max_audience or mailing.stop_when or mailing.budget:
        require_new_workers()
    mailing.request_id = actor.request_id
    with creating_cursor(in_session=in_session) as cursor:
        changes = audit_log.diff_fields({}, _audited_fields(mailing, version=1))
        insert_mailing(cursor, mailing, actor, changes)
    presented = present_mailing(mailing)
    if mailing.budget is not None:
        set_budget(mailing.id, mailing.budget, unused=True)
    if key is not None:
        key.store(presented)
    if in_session:
        db.session.commit()
    structlog.contextvars.bind_contextvars(mailing_id=mailing.id)
    log.info("mailing.created", start_at=presented["start_at"])
    enqueue_launch(mailing, now, actor.request_id)
    return CreatedMailing(presented, replayed=False)


def find_mailing(mailing_id: int, *, lock: bool = False, deleted: bool = False) -> Mailing:
    """Return a mailing that is not deleted, or with `deleted` any, or raise NotFound.

    Lock it before changing its status, and read its batches only after that.
    """
    query = select(Mailing).where(Mailing.id == mailing_id)
    if not deleted:
        query = query.where(Mailing.deleted_at.is_(None))
    if lock:
        query = query.with_for_update(key_share=True)
    mailing = db.session.scalar(query)
    if mailing is None:
        raise NotFound(error_text("There is no such mailing."))
    return mailing


def list_mailings(page: Page, search: MailingSearch) -> Sequence[Mailing]:
    """Return a page of the mailings that match, by id."""
    query = page.bound(select(Mailing).where(*search.conditions()), Mailing.id)
    if not search.search:
        return db.session.scalars(query).all()
    with limited_search("search"):
        return db.session.scalars(query).all()


def list_mailings_by_id(mailing_ids: Sequence[int]) -> Sequence[Mailing]:
    """Return the mailings with these ids, also deleted ones, in the order of their ids."""
    query = select(Mailing).where(Mailing.id.in_(mailing_ids)).order_by(Mailing.id)
    return db.session.scalars(query).all() if mailing_ids else []


def change_mailing(
    mailing_id: int, body: MailingChanges, actor: Actor, versions: Collection[int] | None = None
) -> Mailing:
    """Change the fields of a mailing that `body` contains.

    The mailing must have one of the given versions (None: any), else raise VersionMismatch.
    Raise Conflict if the mailing has ended, or if a field is fixed by its launch.
    """
    mailing = find_mailing(mailing_id, lock=True)
    check_version(mailing, versions)
    now = database_now()
    columns = _columns(body)
    changed = [
        field
        for field, names in FIELD_COLUMNS.items()
        if any(name in columns and columns[name] != getattr(mailing, name) for name in names)
    ]
    check_change(mailing, columns, changed, now)
    if not changed:
        return mailing
    if any(columns[name] for name in LIMITS if name in changed):
        check_budget(body.budget if "budget" in changed else None)
        require_new_workers()
    audited = _audited_fields(mailing)
    for name, value in columns.items():
        setattr(mailing, name, value)
    if "max_audience" in changed and mailing.started_at is not None:
        mailing.audience_limit = read_effective_limits(session_cursor(), mailing_id).max_audience
    mailing.updated_at = now
    mailing.version += 1
    if "text" in changed:
        mailing.text_version += 1
        db.session.add(
            MailingText(mailing_id=mailing_id, version=mailing.text_version, text=mailing.text)
        )
    if "window" in changed and mailing.started_at is not None:
        status_changes.reschedule_batches(session_cursor(), mailing_id)
    if "budget" in changed:  # after the batches, in the order of locks
        set_budget(mailing_id, mailing.budget)
    changes = audit_log.diff_fields(audited, _audited_fields(mailing))
    audit_log.record_change(actor, "updated", "mailing", mailing_id, changes)
    db.session.commit()
    log.info("mailing.updated", mailing_id=mailing_id, changed=changed)
    if mailing.status == MailingStatus.RUNNING:
        enqueue_dispatch(mailing, actor.request_id)
    elif mailing.status == MailingStatus.SCHEDULED and "start_at" in changed:
        enqueue_launch(mailing, now, actor.request_id)
    return mailing


def delete_mailing(mailing_id: int, actor: Actor, versions: Collection[int] | None = None) -> None:
    """Delete a mailing; one that has not ended is cancelled as well.

    Its messages stay until retention drops them: what was sent must be provable.
    The mailing must have one of the given versions (None: any), else raise VersionMismatch.
    """
    mailing = find_mailing(mailing_id, lock=True)
    check_version(mailing, versions)
    now = database_now()
    if mailing.status in RULES[Action.CANCEL].possible:
        mark_cancelled(mailing, now)
    mailing.deleted_at = mailing.updated_at = now
    audit_log.record_change(actor, "deleted", "mailing", mailing_id)
    db.session.commit()
    log.info("mailing.deleted", mailing_id=mailing_id)
    if not mailing.settled:
        enqueue_dispatch(mailing, actor.request_id)


def draft_mailing(body: NewMailing, now: datetime, launch_delay: int) -> Mailing:
    """Return the described mailing without storing it.

    The policy does not let it be launched until `launch_delay` seconds after `now`. Raise
    InvalidFields if it could never be sent.
    """
    mailing = Mailing(**_columns(body))
    delay_launch(mailing, now, launch_delay)
    check_times(mailing.start_at, mailing.end_at)
    if mailing.end_at <= now:
        raise InvalidFields(
            FieldError(
                error_text("has passed already: the mailing would never be sent"), "past", "/end_at"
            )
        )
    check_end_after_launch(mailing.launch_at, mailing.end_at)
    check_margin(max(mailing.launch_at, now), mailing.end_at)
    check_excluded(mailing.exclude_mailing_ids)
    check_budget(body.budget)
    return mailing


def window_of(mailing: Mailing) -> Window | None:
    """Return the local hours in which a mailing's clients may be messaged; None for any hour."""
    return make_window(mailing.window_from, mailing.window_to)


def mark_cancelled(mailing: Mailing, now: datetime) -> None:
    """Set a locked mailing to cancelled. Its messages follow batch by batch, if there are any."""
    mailing.status, mailing.pause_reason = MailingStatus.CANCELLED, None
    mailing.finished_at = mailing.updated_at = now
    mailing.settled = mailing.started_at is None


def _columns(body: NewMailing | MailingChanges) -> dict[str, Any]:
    """Return the values of a mailing's columns; of changes, only those that were sent."""
    columns = dict(body) if isinstance(body, NewMailing) else body.sent_fields()
    if "filter" in columns:
        chosen = columns.pop("filter")
        columns |= {**dict(chosen), "phones": [int(phone) for phone in chosen.phones]}
    if "window" in columns:
        window = columns.pop("window")
        columns["window_from"] = window and window.start
        columns["window_to"] = window and window.end
    for name in ("stop_when", "budget"):
        if name in columns:
            columns[name] = store_limit(columns[name])
    return columns


def _audited_fields(mailing: Mailing, version: int | None = None) -> dict[str, Any]:
    """Return what the audit log keeps: of the text and of listed phones, only the length.

    `version`: that of the text of a mailing which is not stored yet.
    """
    presented = present_mailing(mailing)
    fields = {name: presented[name] for name in FIELD_COLUMNS}
    fields["text"] = {"version": version or mailing.text_version, "length": len(mailing.text)}
    if mailing.phones:
        fields["filter"]["phones"] = len(mailing.phones)
    return fields
