"""Opt-outs: phones that are never written to, and what adding one does to messages under way.

A phone is opted out by itself, whoever it belongs to: so also when its client is deleted and made
again, or when a client changes to it. Launch and hand-off ask this table; adding a phone also ends
at once what is pending for its client.
"""

from collections.abc import Sequence
from datetime import datetime

from psycopg2.extensions import cursor as Cursor
from sqlalchemy import CheckConstraint
from sqlalchemy.orm import Mapped, mapped_column

from shared.db import status_changes
from shared.db.base import NOW, Base
from shared.domain.statuses import Reason


class OptOut(Base):
    """A phone that must not be written to, since when, and where that was learned."""

    __tablename__ = "opt_outs"

    phone: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    source: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (
        CheckConstraint("phone BETWEEN 70000000000 AND 79999999999", name="opt_outs_phone_format"),
        CheckConstraint("char_length(source) BETWEEN 1 AND 64", name="opt_outs_source_length"),
    )


# In the order of the phones: of two that add the same ones, none waits for the other in a circle.
ADD = """
INSERT INTO opt_outs (phone, source)
SELECT phone, %s FROM unnest(%s::bigint[]) AS t (phone) ORDER BY phone
ON CONFLICT (phone) DO NOTHING RETURNING phone
"""
OWNERS = "SELECT id FROM clients WHERE phone = ANY (%s::bigint[])"


def add_opt_outs(cursor: Cursor, phones: Sequence[int], source: str) -> tuple[list[int], int]:
    """Opt phones out, and cancel what is pending for their clients.

    Returns those that were not opted out before, and how many messages were cancelled. A request
    that is in flight goes on: if it is accepted, its message becomes `sent` after all.
    """
    cursor.execute(ADD, (source, sorted(set(phones))))
    added = [phone for (phone,) in cursor.fetchall()]
    cursor.execute(OWNERS, (added,))
    owners = [client_id for (client_id,) in cursor.fetchall()]
    return added, status_changes.cancel_clients_messages(cursor, owners, Reason.OPTED_OUT)
