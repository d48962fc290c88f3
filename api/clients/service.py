"""Clients: create, find, change and delete them. REST routes and admin views call this module."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn, cast

import structlog
from psycopg2 import errors
from psycopg2.extras import Json
from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.client_log import bind_clients, bind_owners
from api.clients.schemas import ClientChanges, NewClient
from api.clients.search import ClientSearch
from api.cursors import Page
from api.db import (
    autocommit_cursor,
    database_now,
    db,
    limited_search,
    session_cursor,
)
from api.edit_versions import check_version
from api.errors import Conflict, NotFound
from api.limits.concurrency import ConcurrencyLimit
from api.schemas.personalisation import merge_attributes
from shared.client_import.columns import EXPORT_COLUMNS, MAX_ATTRIBUTE_COLUMNS
from shared.db import erasures, status_changes
from shared.db.models import Client
from shared.db.prepared_statements import PreparedStatement
from shared.domain.error_texts import error_text
from shared.domain.phones import derive_operator_code
from shared.domain.statuses import Reason
from shared.logging.redaction import mask_phone

log = structlog.get_logger()

NO_CLIENT = error_text("There is no such client.")
FIELDS = ("phone", "operator_code", "tag", "timezone", "attributes")
EXPORT_PAGE_ROWS = 5_000
# Of more clients than this, a search says that there are more.
MAX_COUNTED = 10_000
# Of one process: a part of a phone is sought in all phones.
SEARCHES = ConcurrencyLimit(error_text("searches"), per_process=4, per_caller=3, retry_after=2)

# Creating and getting a client are the most frequent requests. Each is one prepared statement on an
# autocommit connection: a single round trip, without the session.
COLUMNS = "id, phone, operator_code, tag, timezone, attributes, created_at, updated_at, version"
GET = PreparedStatement(
    "get_client",
    f"SELECT {COLUMNS} FROM clients WHERE id = %(id)s AND deleted_at IS NULL",  # noqa: S608 (constants)
)
# Inserts and returns nothing if the phone is taken.
CREATE_STATEMENT = f"""
WITH made AS (
    INSERT INTO clients (phone, operator_code, operator_code_given, tag, timezone, attributes)
    VALUES (
        %(phone)s, %(operator_code)s, %(operator_code_given)s, %(tag)s, %(timezone)s,
        %(attributes)s
    )
    ON CONFLICT (phone) DO NOTHING
    RETURNING {COLUMNS}
), recorded AS ({audit_log.RECORD_CREATED})
SELECT * FROM made
"""  # noqa: S608 (constants)
CREATE = PreparedStatement("create_client", CREATE_STATEMENT)


def create_client(new: NewClient, actor: Actor) -> Client:
    """Create a client and return its row, a named tuple of COLUMNS. Raise Conflict if the phone
    belongs to another client.
    """
    with autocommit_cursor() as direct:
        CREATE.run(direct, creation_values(new, actor))
        created: Any = direct.fetchone()
    return finish_creation(int(new.phone), created)


def creation_values(new: NewClient, actor: Actor) -> dict[str, object]:
    """Return the values of CREATE_STATEMENT."""
    phone = int(new.phone)
    return {
        "phone": phone,
        "operator_code": new.operator_code or derive_operator_code(phone),
        "operator_code_given": new.operator_code is not None,
        "tag": new.tag,
        "timezone": new.timezone,
        "attributes": Json(new.attributes),
        "entity": "client",
        **audit_log.actor_columns(actor),
    }


def finish_creation(phone: int, created: Any) -> Client:
    """Log and return the row of CREATE_STATEMENT. Raise Conflict without one."""
    if created is None:
        _raise_phone_conflict(phone)
    structlog.contextvars.bind_contextvars(client_id=created.id)
    log.info("client.created", phone=mask_phone(phone))
    return cast(Client, created)


def get_client(client_id: int) -> Client:
    """Return the client's row, a named tuple of COLUMNS. Raise NotFound if there is none."""
    with autocommit_cursor() as direct:
        GET.run(direct, {"id": client_id})
        found: Any = direct.fetchone()
    if found is None:
        raise NotFound(NO_CLIENT)
    return cast(Client, found)


def list_clients(search: ClientSearch, page: Page, actor: Actor) -> Sequence[Client]:
    """Return a page of the clients that match, by id. Raise RateLimited for too many searches."""
    _bind_searched(search)
    found = page.bound(select(Client).where(*search.conditions()), Client.id)
    if not search.search:
        return db.session.scalars(found).all()
    with SEARCHES.admitting(actor.name), limited_search("search"):
        return db.session.scalars(found).all()


def count_clients(search: ClientSearch, actor: Actor) -> int:
    """Count the clients that match, up to MAX_COUNTED + 1. Raise RateLimited likewise."""
    found = select(Client.id).where(*search.conditions()).limit(MAX_COUNTED + 1).subquery()
    with SEARCHES.admitting(actor.name), limited_search("search"):
        return db.session.scalar(select(func.count()).select_from(found)) or 0


def export_clients(
    search: ClientSearch,
) -> tuple[Sequence[str], Iterator[list[tuple[Any, ...]]]]:
    """Return the columns of a file of all found clients, and its rows in pages, by id.

    The MAX_ATTRIBUTE_COLUMNS most frequent attributes among these clients are columns. Raise
    InvalidFields for a search that takes too long.
    """
    _bind_searched(search)
    name = func.jsonb_object_keys(Client.attributes).label("name")
    names = select(name).where(Client.attributes != {}, *search.conditions()).subquery()
    most_frequent = (
        select(names.c.name)
        .group_by(names.c.name)
        .order_by(func.count().desc(), names.c.name)
        .limit(MAX_ATTRIBUTE_COLUMNS)
    )
    # It reads all clients that match: the pages, which follow it, take no longer.
    with limited_search("search") if search.search else nullcontext():
        attributes = sorted(db.session.scalars(most_frequent))
    return (*EXPORT_COLUMNS, *attributes), _iter_export_pages(search, attributes)


def replace_client(
    client_id: int, new: NewClient, actor: Actor, versions: Collection[int] | None = None
) -> Client:
    """Replace all data of a client, if it has one of the given versions (None: any).

    Raise NotFound, VersionMismatch or Conflict (the phone is taken).
    """
    return _change(client_id, new.model_dump(), {}, actor, versions)


def change_client(
    client_id: int,
    changes: ClientChanges,
    actor: Actor,
    versions: Collection[int] | None = None,
) -> Client:
    """Change the given fields of a client; attributes are merged, and None removes one.

    The client must have one of the given versions (None: any).

    Raise NotFound, VersionMismatch, Conflict (the phone is taken) or InvalidFields (too many
    attributes).
    """
    given = changes.sent_fields()
    return _change(client_id, given, given.pop("attributes", {}), actor, versions)


def change_locked_client(
    client: Client,
    changes: dict[str, Any],
    attributes: dict[str, str | None],
    actor: Actor,
    versions: Collection[int] | None,
) -> Client:
    """Apply changes to a locked client and commit; `attributes` are merged into its own.

    Raise VersionMismatch or Conflict (the phone is taken).
    """
    check_version(client, versions)
    client_id = client.id
    before = {name: getattr(client, name) for name in FIELDS}
    _set_fields(client, changes)
    if attributes:
        client.attributes = merge_attributes(client.attributes, attributes)
    changed = [name for name in FIELDS if getattr(client, name) != before[name]]
    if changed:
        client.updated_at = database_now()
        client.version += 1
        _flush_client(client)
        if "timezone" in changed:
            status_changes.move_client_messages(session_cursor(), {client_id: str(client.timezone)})
        audit_log.record_change(
            actor, "updated", "client", client_id, audit_log.hide_values(changed)
        )
    db.session.commit()
    if changed:
        log.info("client.updated", client_id=client_id, changed=changed)
    return client


def delete_client(client_id: int, actor: Actor, versions: Collection[int] | None = None) -> None:
    """Erase a client's personal data and cancel its pending messages.

    The sweep finds what other tables hold of it (shared/db/erasures.py). The client must have one
    of the given versions (None: any). Raise NotFound or VersionMismatch.
    """
    client = _lock_client(client_id)
    check_version(client, versions)
    phone = client.phone
    client.phone = client.operator_code = client.tag = client.timezone = None
    client.operator_code_given = False
    client.attributes = {}
    client.deleted_at = client.updated_at = database_now()
    statements = session_cursor()
    cancelled = status_changes.cancel_client_messages(
        statements, [client_id], Reason.CLIENT_DELETED
    )
    erasures.request_erasure(statements, client_id, cast(int, phone))
    audit_log.record_change(actor, "deleted", "client", client_id)
    db.session.commit()
    log.info("client.deleted", client_id=client_id, messages_cancelled=cancelled)


def _bind_searched(search: ClientSearch) -> None:
    if (phone := search.named_phone) is not None:
        bind_owners([phone])


def _iter_export_pages(
    search: ClientSearch, attributes: Sequence[str]
) -> Iterator[list[tuple[Any, ...]]]:
    page: Select[Any] = (
        select(*(getattr(Client, name) for name in EXPORT_COLUMNS), Client.attributes)
        .where(*search.conditions())
        .order_by(Client.id)
        .limit(EXPORT_PAGE_ROWS)
    )
    after = 0
    while rows := db.session.execute(page.where(Client.id > after)).all():
        yield [(*row[:-1], *(row.attributes.get(name) for name in attributes)) for row in rows]
        after = rows[-1].id


def _lock_client(client_id: int) -> Client:
    found = select(Client).where(Client.id == client_id, Client.deleted_at.is_(None))
    client = db.session.scalar(found.with_for_update(key_share=True))
    if client is None:
        raise NotFound(NO_CLIENT)
    return client


def _change(
    client_id: int,
    changes: dict[str, Any],
    attributes: dict[str, str | None],
    actor: Actor,
    versions: Collection[int] | None,
) -> Client:
    return change_locked_client(_lock_client(client_id), changes, attributes, actor, versions)


def _set_fields(client: Client, changes: dict[str, Any]) -> None:
    """Set the fields in `changes`; an operator code that was not given follows the phone."""
    if "phone" in changes:
        client.phone = int(changes["phone"])
    if "operator_code" in changes:
        client.operator_code = changes["operator_code"]
        client.operator_code_given = client.operator_code is not None
    if not client.operator_code_given:
        client.operator_code = derive_operator_code(client.phone)
    for name in ("tag", "timezone", "attributes"):
        if name in changes:
            setattr(client, name, changes[name])


def _flush_client(client: Client) -> None:
    phone = client.phone
    try:
        db.session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, errors.UniqueViolation):
            raise
        db.session.rollback()
        _raise_phone_conflict(phone)


def _raise_phone_conflict(phone: int | None) -> NoReturn:
    owner = db.session.scalar(select(Client.id).where(Client.phone == phone))
    bind_clients([owner] if owner else [])
    holder = error_text("client %(id)s", id=owner) if owner else error_text("another client")
    detail = error_text("phone already belongs to %(holder)s", holder=holder)
    raise Conflict(detail, "phone_taken", client_id=owner)
