"""Opt-outs: phones that must not be sent to.

An opt-out belongs to the phone and not to a client: it stays in force if the client is deleted and
created again, or if another client takes the phone. Launch and dispatch check this table; adding a
phone also cancels the pending messages of its client.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor
from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from shared.db import status_changes
from shared.db.base import NOW, Base
from shared.db.on_commit import log_clients_on_commit
from shared.domain.statuses import Reason


class OptOut(Base):
    """A phone that must not be sent to, since when, and the source of the wish."""

    __tablename__ = "opt_outs"

    phone: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (
        CheckConstraint("phone BETWEEN 70000000000 AND 79999999999", name="opt_outs_phone_format"),
        CheckConstraint("char_length(source) BETWEEN 1 AND 64", name="opt_outs_source_length"),
    )


# Ordered by phone, so that two transactions that add the same phones cannot deadlock.
ADD = """
INSERT INTO opt_outs (phone, source)
SELECT phone, %s FROM unnest(%s::bigint[]) AS t (phone) ORDER BY phone
ON CONFLICT (phone) DO NOTHING RETURNING phone
"""
OWNERS = "SELECT id, phone FROM clients WHERE phone = ANY (%s::bigint[]) ORDER BY id"


class AddedPhones(NamedTuple):
    """The phones that were not opted out before, with their client's id if they have one."""

    owners: dict[int, int | None]
    messages_cancelled: int


def add_opt_outs(cursor: Cursor, phones: Sequence[int], source: str) -> AddedPhones:
    """Add opt-outs and cancel the pending messages of the phones' clients.

    A request in flight goes on: if the provider accepts it, its message becomes `sent` after all.
    """
    cursor.execute(ADD, (source, sorted(set(phones))))
    added = [phone for (phone,) in cursor.fetchall()]
    cursor.execute(OWNERS, (list(phones),))
    found = cursor.fetchall()
    log_clients_on_commit(cursor, "client.opted_out", [client_id for client_id, _ in found])
    by_phone = {phone: client_id for client_id, phone in found}
    owners = {phone: by_phone.get(phone) for phone in added}
    known = sorted(client_id for client_id in owners.values() if client_id is not None)
    cancelled = status_changes.cancel_client_messages(cursor, known, Reason.OPTED_OUT)
    return AddedPhones(owners, cancelled)
