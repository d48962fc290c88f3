"""Create or replace the client of a phone, for callers that do not keep the ids of clients."""

from collections.abc import Collection

from sqlalchemy import select

from api.actor import Actor
from api.clients.schemas import NewClient
from api.clients.service import change_locked_client, create_client
from api.db import db
from api.errors import Conflict, NothingToMatch
from shared.db.models import Client
from shared.domain.error_texts import error_text

# A phone may pass from client to client between the look-up and the creation, but not for long.
MAX_ATTEMPTS = 5


def put_client_of_phone(
    new: NewClient,
    actor: Actor,
    versions: Collection[int] | None = None,
    *,
    must_exist: bool = False,
) -> tuple[Client, bool]:
    """Replace the data of the client with this phone, or create it; return it, and if it is new.

    Raise VersionMismatch, or NothingToMatch if it must exist and does not.
    """
    phone = int(new.phone)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        found = select(Client).where(Client.phone == phone)
        client = db.session.scalar(found.with_for_update(key_share=True))
        if client is not None:
            return change_locked_client(client, new.model_dump(), {}, actor, versions), False
        db.session.rollback()
        if must_exist:
            raise NothingToMatch(
                error_text("There is no client with this phone that If-Match could match.")
            )
        try:
            return create_client(new, actor), True
        except Conflict:  # another request gave the phone to a client since the look-up
            if attempt == MAX_ATTEMPTS:
                raise
            db.session.rollback()
    raise AssertionError("the last attempt returns or raises")
