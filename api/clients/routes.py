"""The directory of clients: who may be written to, and where their clock stands."""

from typing import Any, NoReturn

import structlog
from flask import Blueprint
from psycopg2 import errors
from psycopg2.extras import Json
from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError

from api import audit_log
from api.actor import current_actor
from api.db import autocommit, cursor, database_now, db
from api.errors import Conflict, NotFound
from api.http.pagination import page
from api.openapi.operation import operation
from api.schemas.personalisation import merge
from api.schemas.requests import ClientChanges, ClientFilter, ClientQuery, NewClient
from api.schemas.responses import ClientAnswer, ClientPage, present_client
from shared.db import status_changes
from shared.db.models import Client
from shared.db.prepared_statements import PreparedStatement
from shared.logging.log_config import mask_phone

log = structlog.get_logger()
clients = Blueprint("clients", __name__)

NO_CLIENT = "There is no such client."
FIELDS = ("phone", "operator_code", "tag", "timezone", "attributes")

COLUMNS = "id, phone, operator_code, tag, timezone, attributes, created_at, updated_at"
GET = PreparedStatement(
    "get_client",
    f"SELECT {COLUMNS} FROM clients WHERE id = %(id)s AND deleted_at IS NULL",  # noqa: S608 (constants)
)
# Of a phone that is taken, nothing is made and nothing returned.
CREATE = PreparedStatement(
    "create_client",
    f"""
WITH made AS (
    INSERT INTO clients (phone, operator_code, operator_code_given, tag, timezone, attributes)
    VALUES (
        %(phone)s, %(operator_code)s, %(operator_code_given)s, %(tag)s, %(timezone)s,
        %(attributes)s
    )
    ON CONFLICT (phone) DO NOTHING
    RETURNING {COLUMNS}
), recorded AS ({audit_log.RECORD_MADE})
SELECT * FROM made
""",  # noqa: S608 (constants)
)

# What was handed off for a client is kept so that a retry repeats it exactly; erasing ends that.
ERASE_ATTEMPTS = """
UPDATE attempts a SET phone = NULL, text = NULL
FROM (
    SELECT g.id AS mailing_id, m.id AS message_id
    FROM mailings g
    CROSS JOIN LATERAL (
        SELECT id FROM messages WHERE mailing_id = g.id AND client_id = %s
    ) m
    WHERE g.audience > 0
) found
WHERE a.mailing_id = found.mailing_id AND a.message_id = found.message_id
    AND num_nonnulls(a.phone, a.text) > 0
"""


@clients.post("/clients")
@operation(
    "clients",
    answer=ClientAnswer,
    status=201,
    says="The client as it was made.",
    body=NewClient,
    problems=(409,),
)
def create_client(body: NewClient) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Add a client

    A phone belongs to one client at a time.
    """
    phone = int(body.phone)
    values = {
        "phone": phone,
        "operator_code": body.operator_code or body.phone[1:4],
        "operator_code_given": body.operator_code is not None,
        "tag": body.tag,
        "timezone": body.timezone,
        "attributes": Json(body.attributes),
    }
    with autocommit() as direct:
        CREATE.run(
            direct, {**values, **audit_log.actor_columns(current_actor()), "entity": "client"}
        )
        made: Any = direct.fetchone()
    if made is None:
        _refuse_phone(phone)
    structlog.contextvars.bind_contextvars(client_id=made.id)
    log.info("client.created", phone=mask_phone(phone))
    return present_client(made), 201, {"Location": f"/api/v1/clients/{made.id}"}


@clients.get("/clients")
@operation("clients", answer=ClientPage, says="A page of clients.", query=ClientQuery)
def list_clients(query: ClientQuery) -> dict[str, Any]:
    """List clients

    By id, the oldest first. Filters combine: a client must match all that are given.
    """
    found = select(Client).where(Client.id > query.cursor, *conditions(query))
    rows = db.session.scalars(found.order_by(Client.id).limit(query.limit + 1)).all()
    return page(rows, query.limit, present_client, lambda client: client.id)


@clients.get("/clients/<id:client_id>")
@operation("clients", answer=ClientAnswer, says="The client.", problems=(404,))
def get_client(client_id: int) -> dict[str, Any]:
    """Get a client"""
    with autocommit() as direct:
        GET.run(direct, {"id": client_id})
        found: Any = direct.fetchone()
    if found is None:
        raise NotFound(NO_CLIENT)
    return present_client(found)


@clients.put("/clients/<id:client_id>")
@operation(
    "clients",
    answer=ClientAnswer,
    says="The client as it is now.",
    body=NewClient,
    problems=(404, 409),
)
def replace_client(client_id: int, body: NewClient) -> dict[str, Any]:
    """Replace a client's data

    What is left out gets its default: the operator code follows the phone, the tag is empty.
    """
    return _change(client_id, body.model_dump())


@clients.patch("/clients/<id:client_id>")
@operation(
    "clients",
    answer=ClientAnswer,
    says="The client as it is now.",
    body=ClientChanges,
    problems=(404, 409),
)
def change_client(client_id: int, body: ClientChanges) -> dict[str, Any]:
    """Change some of a client's data

    An operator code of null lets it follow the phone again; an attribute of null is removed. A new
    time zone also moves the messages that still wait for this client.
    """
    changes = body.given()
    return _change(client_id, changes, changes.pop("attributes", {}))


@clients.delete("/clients/<id:client_id>")
@operation("clients", answer=None, status=204, says="The client is gone.", problems=(404,))
def delete_client(client_id: int) -> tuple[str, int]:
    """Delete a client

    The personal data is erased and pending messages are cancelled (reason: client deleted); the
    record of those sent stays, under the id alone.
    """
    client = _find(client_id, lock=True)
    client.phone = client.operator_code = client.tag = client.timezone = None
    client.operator_code_given = False
    client.attributes = {}
    client.deleted_at = client.updated_at = database_now()
    ledger_cursor = cursor()
    cancelled = status_changes.cancel_client_messages(ledger_cursor, client_id)
    ledger_cursor.execute(ERASE_ATTEMPTS, (client_id,))
    audit_log.record(current_actor(), "deleted", "client", client_id)
    db.session.commit()
    log.info("client.deleted", client_id=client_id, messages_cancelled=cancelled)
    return "", 204


def conditions(query: ClientFilter) -> list[ColumnElement[bool]]:
    """What a client must fulfil to be listed."""
    found: list[ColumnElement[bool]] = [Client.deleted_at.is_(None)]
    if query.phone is not None:
        found.append(Client.phone == int(query.phone))
    if query.operator_code is not None:
        found.append(Client.operator_code == query.operator_code)
    if query.tag is not None:
        found.append(Client.tag == query.tag)
    if query.timezone is not None:
        found.append(Client.timezone == query.timezone)
    return found


def _find(client_id: int, *, lock: bool = False) -> Client:
    found = select(Client).where(Client.id == client_id, Client.deleted_at.is_(None))
    if lock:
        found = found.with_for_update(key_share=True)
    client = db.session.scalar(found)
    if client is None:
        raise NotFound(NO_CLIENT)
    return client


def _change(
    client_id: int, changes: dict[str, Any], attributes: dict[str, str | None] | None = None
) -> dict[str, Any]:
    """Apply changes; `attributes` are merged into those that the client has."""
    client = _find(client_id, lock=True)
    before = {name: getattr(client, name) for name in FIELDS}
    _revise(client, changes)
    if attributes:
        client.attributes = merge(client.attributes, attributes)
    changed = [name for name in FIELDS if getattr(client, name) != before[name]]
    if changed:
        client.updated_at = database_now()
    _flush(client)
    if "timezone" in changed:
        status_changes.move_client_messages(cursor(), client_id, str(client.timezone))
    if changed:
        audit_log.record(current_actor(), "updated", "client", client_id, audit_log.names(changed))
    answer = present_client(client)
    db.session.commit()
    if changed:
        log.info("client.updated", client_id=client_id, changed=changed)
    return answer


def _revise(client: Client, changes: dict[str, Any]) -> None:
    """Apply changes; the operator code follows the phone unless it was given."""
    if "phone" in changes:
        client.phone = int(changes["phone"])
    if "operator_code" in changes:
        client.operator_code = changes["operator_code"]
        client.operator_code_given = client.operator_code is not None
    if not client.operator_code_given:
        client.operator_code = str(client.phone)[1:4]
    for name in ("tag", "timezone", "attributes"):
        if name in changes:
            setattr(client, name, changes[name])


def _flush(client: Client) -> Client:
    phone = client.phone
    try:
        db.session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, errors.UniqueViolation):
            raise
        db.session.rollback()
        _refuse_phone(phone)
    return client


def _refuse_phone(phone: int | None) -> NoReturn:
    owner = db.session.scalar(select(Client.id).where(Client.phone == phone))
    raise Conflict(f"phone already belongs to {f'client {owner}' if owner else 'another client'}")
