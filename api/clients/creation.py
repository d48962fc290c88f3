"""Create a client once: a repetition of the request, by its key, creates nothing."""

from typing import Any, NamedTuple

from psycopg2.extras import NamedTupleCursor

from api.actor import Actor
from api.client_log import bind_clients
from api.clients.schemas import NewClient, present_client
from api.clients.service import (
    CREATE_STATEMENT,
    create_client,
    creation_values,
    finish_creation,
)
from api.db import db, session_cursor
from api.idempotency import AnswerNotStored, IdempotencyKey
from shared.domain.error_texts import error_text


class CreatedClient(NamedTuple):
    """A client as it was presented when created; `replayed` if an earlier request created it."""

    presented: dict[str, Any]
    replayed: bool = False


def create_client_once(new: NewClient, actor: Actor, key: IdempotencyKey | None) -> CreatedClient:
    """Create a client; with a key, in the transaction that claims it.

    Raise Conflict if the phone belongs to another client, AnswerNotStored if an earlier request
    created a client that was erased since.
    """
    if key is None:
        return CreatedClient(present_client(create_client(new, actor)))
    first = key.claim()
    if first is not None:
        bind_clients([first["id"]])
        if "phone" not in first:
            raise AnswerNotStored(
                error_text("The client that the first request created was deleted.")
            )
        return CreatedClient(first, replayed=True)
    connection = session_cursor().connection
    with connection.cursor(cursor_factory=NamedTupleCursor) as statements:
        statements.execute(  # type: ignore[no-untyped-call]
            CREATE_STATEMENT, creation_values(new, actor)
        )
        row = statements.fetchone()
    created = finish_creation(int(new.phone), row)
    presented = present_client(created)
    key.store(presented)
    db.session.commit()
    return CreatedClient(presented)
