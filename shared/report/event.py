"""An event of a mailing that people are told of, read with the mailing as it is now."""

from datetime import datetime
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.mailing_counts import MailingCounts, read_mailing_counts
from shared.db.refusals import Refusal, read_refusals

READ_EVENT = """
SELECT n.id, n.kind, n.details, n.created_at, m.id, m.name, m.text, m.start_at, m.end_at, m.audience
FROM notifications n JOIN mailings m ON m.id = n.mailing_id WHERE n.id = %s
"""


class Event(NamedTuple):
    """What a notification is about: the event, and the mailing as it is now."""

    id: int
    kind: str
    details: dict[str, Any]
    at: datetime
    mailing_id: int
    name: str | None
    text: str
    start_at: datetime
    end_at: datetime
    audience: int
    counts: MailingCounts
    refusals: list[Refusal]


def read_event(cursor: Cursor, notification_id: int) -> Event | None:
    """Return an event with its mailing; None if the mailing was dropped."""
    cursor.execute(READ_EVENT, (notification_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    mailing_id = row[4]
    counts = read_mailing_counts(cursor, mailing_id)
    refusals = read_refusals(cursor, [mailing_id])[mailing_id]
    return Event._make((*row, counts, refusals))
