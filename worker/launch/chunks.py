"""Writes one chunk of a mailing's audience: its messages, their batches, and the checkpoint.

A chunk is one short transaction. It writes first and locks the mailing afterwards, so that two
chunks can be written at once and whoever changes the mailing hardly waits; what was written is
rolled back unless the mailing still wants it and everybody before it is written and committed.
"""

import time
from concurrent.futures import Future
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.audience import AUDIENCE_CONDITION, audience_parameters
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import Window, next_opening
from shared.domain.statuses import Reason
from worker.runtime.database import Database

CHUNK_RECIPIENTS = 50_000

# A chunk is sorted in memory; compiling its statement would take longer than running it.
TUNE = "SET LOCAL work_mem = '32MB'; SET LOCAL jit = off"
# A chunk need not be on disk before the next is begun: should PostgreSQL crash, it is gone together
# with its checkpoint, and done again. Whoever claims a batch of it has it flushed by that commit.
# The last one is waited for, and all before it with it.
DO_NOT_WAIT = "SET LOCAL synchronous_commit = off"
LOCK = """
SELECT status, audience_complete, launched_client_id, window_from, window_to, now()
FROM mailings WHERE id = %s FOR NO KEY UPDATE
"""
# Recipients are numbered by zone, so that a batch holds consecutive messages of one zone. How many
# there are in each zone tells everybody's batch by division, and numbers sort faster than names.
FILL = f"""
WITH chosen AS MATERIALIZED (
    SELECT id AS client_id, timezone FROM clients
    WHERE id > %(after)s AND id <= %(until)s AND {AUDIENCE_CONDITION}
    ORDER BY id LIMIT %(most)s
), counted AS (
    SELECT timezone, count(*) AS size, (count(*) - 1) / %(batch_size)s + 1 AS parts,
        max(client_id) AS last_client, (row_number() OVER (ORDER BY timezone))::int AS zone
    FROM chosen GROUP BY timezone
), zones AS MATERIALIZED (
    SELECT *, coalesce(sum(size) OVER earlier, 0)::bigint AS earlier_messages,
        coalesce(sum(parts) OVER earlier, 0)::bigint AS earlier_batches
    FROM counted
    WINDOW earlier AS (ORDER BY zone ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), taken AS MATERIALIZED (
    SELECT *, %(first_message)s::bigint - 1 AS message, take_ids('batch_ids', batches) - 1 AS batch
    FROM (
        SELECT coalesce(sum(size), 0)::bigint AS recipients,
            coalesce(sum(parts), 0)::bigint AS batches, max(last_client) AS last_client
        FROM zones
    ) AS summed
), made_batches AS (
    INSERT INTO batches (mailing_id, id, first_id, last_id, due_at, size, pending, timezone)
    SELECT %(mailing)s, batch + earlier_batches + part, first_id, last_id, now(),
        last_id - first_id + 1, last_id - first_id + 1, timezone
    FROM taken CROSS JOIN zones CROSS JOIN generate_series(1, parts) AS part
    CROSS JOIN LATERAL (
        SELECT message + earlier_messages + (part - 1) * %(batch_size)s + 1 AS first_id,
            message + earlier_messages + least(part * %(batch_size)s, zones.size) AS last_id
    ) AS span
    ORDER BY 2
), recipients AS (
    SELECT client_id, zone, earlier_messages, earlier_batches,
        row_number() OVER (ORDER BY zone, client_id) AS n
    FROM chosen JOIN zones USING (timezone)
), made_messages AS (
    INSERT INTO messages (mailing_id, id, client_id, batch_id)
    SELECT %(mailing)s, message + n, client_id,
        batch + earlier_batches + (n - earlier_messages - 1) / %(batch_size)s + 1
    FROM recipients CROSS JOIN taken ORDER BY zone, client_id
), made_block AS (
    INSERT INTO id_blocks (first_id, last_id, mailing_id)
    SELECT message + 1, message + recipients, %(mailing)s FROM taken WHERE recipients > 0
)
SELECT recipients, last_client, batch + 1, batch + batches FROM taken
"""  # noqa: S608 (AUDIENCE_CONDITION is a constant)
ADVANCE = """
UPDATE mailings SET audience = audience + %s, launched_client_id = %s, audience_complete = %s
WHERE id = %s
"""
# Who has opted out is of the audience all the same, and cancelled at once: it waits for no window.
OPTED_OUT = """
WITH opted_out AS MATERIALIZED (
    SELECT c.id FROM clients c JOIN opt_outs o ON o.phone = c.phone
    WHERE c.id > %(after)s AND c.id <= %(until)s
)
SELECT m.mailing_id, m.batch_id, m.id FROM opted_out
JOIN messages m ON m.mailing_id = %(mailing)s AND m.client_id = opted_out.id ORDER BY 1, 2, 3
"""
NEW_ZONES = "SELECT DISTINCT timezone FROM batches WHERE mailing_id = %s AND id BETWEEN %s AND %s"
WAIT_FOR_WINDOW = """
UPDATE batches b SET due_at = t.opens FROM unnest(%s::text[], %s::timestamptz[]) AS t (zone, opens)
WHERE b.mailing_id = %s AND b.id BETWEEN %s AND %s AND b.timezone = t.zone
"""


class Audience(NamedTuple):
    """Whom a launched mailing is for; none of it changes any more."""

    mailing_id: int
    last_client_id: int
    filter: tuple[Any, ...]  # the values of shared.audience.COLUMNS

    @property
    def listed(self) -> bool:
        """Whether its clients are listed one by one, by their phones."""
        return bool(self.filter[-1])


class Span(NamedTuple):
    """What a chunk is to be of: clients, and ids for their messages."""

    after: int  # clients with ids above this one
    until: int  # and up to this one
    first_message_id: int  # as many as there may be recipients are taken


class Chunk(NamedTuple):
    """What one chunk did."""

    recipients: int
    after: int  # clients with ids above this one
    until: int  # and up to this one; earlier than asked for if they were many
    audience_complete: bool
    seconds: float
    first_message_id: int | None  # None if there are no recipients
    last_message_id: int | None


# A chunk that is being written; None if it turned out to be unwanted and was rolled back.
Writing = Future[Chunk | None]


class NotWanted(Exception):
    """The mailing does not want this chunk (any more): it is rolled back."""


def write_chunk(
    db: Database, audience: Audience, batch_size: int, span: Span, before: Writing | None
) -> Chunk | None:
    """Write the messages of a span's clients or, if they are many, of the first of them.

    Waits for the chunk `before` this one, if there is one, to be committed. None says that nothing
    was written: the mailing wants no more, or everybody before is not written. Raises
    DatabaseError; nothing is written then either.
    """
    try:
        with db.transaction() as cursor:
            return _write(cursor, audience, batch_size, span, before)
    except NotWanted:
        return None


def _write(
    cursor: Cursor, audience: Audience, batch_size: int, span: Span, before: Writing | None
) -> Chunk:
    mailing_id, (after, until, first_message) = audience.mailing_id, span
    started = time.monotonic()
    cursor.execute(TUNE)
    cursor.execute(
        FILL,
        {
            "mailing": mailing_id,
            "batch_size": batch_size,
            "after": after,
            "until": until,
            "first_message": first_message,
            "most": CHUNK_RECIPIENTS,
            **audience_parameters(*audience.filter),
        },
    )
    recipients, reached, first_batch, last_batch = fetch_one_row(cursor)
    seconds = time.monotonic() - started
    if recipients == CHUNK_RECIPIENTS:
        until = reached
    if before is not None and before.result() is None:
        raise NotWanted
    cursor.execute(LOCK, (mailing_id,))
    status, complete, checkpoint, window_from, window_to, now = fetch_one_row(cursor)
    if complete or checkpoint != after or status not in ("running", "paused"):
        raise NotWanted
    if recipients and window_from is not None:
        window = Window(window_from, window_to)
        cursor.execute(NEW_ZONES, (mailing_id, first_batch, last_batch))
        zones = [zone for (zone,) in cursor.fetchall()]
        opens = [next_opening(window, zone, now) for zone in zones]
        cursor.execute(WAIT_FOR_WINDOW, (zones, opens, mailing_id, first_batch, last_batch))
    complete = until >= audience.last_client_id
    cursor.execute(ADVANCE, (recipients, until, complete, mailing_id))
    if not complete:
        cursor.execute(DO_NOT_WAIT)
    if recipients:
        cursor.execute(OPTED_OUT, {"mailing": mailing_id, "after": after, "until": until})
        status_changes.cancel_messages(cursor, cursor.fetchall(), Reason.OPTED_OUT)
    first, last = (first_message, first_message + recipients - 1) if recipients else (None, None)
    return Chunk(recipients, after, until, complete, seconds, first, last)
