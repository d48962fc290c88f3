"""Write one chunk of a mailing's audience: its messages, their batches, and the checkpoint.

A chunk is one short transaction. It writes first and locks the mailing afterwards, so that two
chunks can be written at once and a change of the mailing hardly waits. What was written is rolled
back unless the mailing still needs it and every earlier chunk is committed.
"""

import time
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.audience import AUDIENCE_CONDITION, audience_parameters
from shared.db.batch_conditions import OVER_LIMIT
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import make_window, next_due
from shared.domain.statuses import PauseReason, Reason
from worker.runtime.database import Database

log = structlog.get_logger()

CHUNK_RECIPIENTS = 50_000

# Sort a chunk in memory; compiling its statement would take longer than running it.
SET_PLANNER_OPTIONS = "SET LOCAL work_mem = '32MB'; SET LOCAL jit = off"
# A chunk need not be on disk before the next one: if PostgreSQL crashes, it is lost together with
# its checkpoint and is written again. The commit that claims one of its batches flushes it as well,
# and so does the commit of the last chunk, which waits for the disk.
SET_ASYNCHRONOUS_COMMIT = "SET LOCAL synchronous_commit = off"
LOCK_MAILING = f"""
SELECT status, {OVER_LIMIT}, audience_complete, audience_limit, audience, launched_client_id,
    window_from, window_to, now()
FROM mailings m WHERE id = %s FOR NO KEY UPDATE
"""  # noqa: S608 (OVER_LIMIT is a constant)
# Recipients are numbered by zone, so that a batch holds consecutive messages of one zone. The sizes
# of the zones give each recipient's batch by division, and numbers sort faster than names.
WRITE_CHUNK = f"""
WITH chosen AS MATERIALIZED (
    SELECT id AS client_id, timezone FROM clients
    WHERE id > %(after)s AND id <= %(until)s AND {AUDIENCE_CONDITION}
    ORDER BY id LIMIT %(limit)s
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
    SELECT *, %(first_message_id)s::bigint - 1 AS message,
        take_ids('batch_ids', batches) - 1 AS batch
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
ADVANCE_CHECKPOINT = """
UPDATE mailings SET audience = audience + %s, launched_client_id = %s, audience_complete = %s
WHERE id = %s
"""
# The launch stops at the audience limit: nothing was sent, and nothing is until a person decides.
PAUSE_OVER_LIMIT = """
UPDATE mailings SET status = 'paused', pause_reason = 'audience_limit', updated_at = now()
WHERE id = %s
"""
# Opted-out clients count towards the audience and are cancelled immediately, whatever the window.
FIND_OPTED_OUT = """
WITH opted_out AS MATERIALIZED (
    SELECT c.id FROM clients c JOIN opt_outs o ON o.phone = c.phone
    WHERE c.id > %(after)s AND c.id <= %(until)s
)
SELECT m.mailing_id, m.batch_id, m.id FROM opted_out
JOIN messages m ON m.mailing_id = %(mailing)s AND m.client_id = opted_out.id ORDER BY 1, 2, 3
"""
READ_ZONES = "SELECT DISTINCT timezone FROM batches WHERE mailing_id = %s AND id BETWEEN %s AND %s"
SCHEDULE_FOR_WINDOW = """
UPDATE batches b SET due_at = t.opens FROM unnest(%s::text[], %s::timestamptz[]) AS t (zone, opens)
WHERE b.mailing_id = %s AND b.id BETWEEN %s AND %s AND b.timezone = t.zone
"""


class Launch(NamedTuple):
    """A mailing being launched: its audience, which does not change after its start."""

    mailing_id: int
    batch_size: int
    last_client_id: int
    filter: tuple[Any, ...]  # the values of shared.db.audience.FILTER_COLUMNS

    @property
    def listed(self) -> bool:
        """Whether the clients are given as a list of phones."""
        return bool(self.filter[-1])


class ClientRange(NamedTuple):
    """The range of client ids that a chunk covers, and the first id for its messages."""

    after: int  # exclusive
    until: int  # inclusive
    first_message_id: int  # reserved: as many as there may be recipients


class Chunk(NamedTuple):
    """A committed chunk."""

    recipients: int
    after: int  # exclusive
    until: int  # inclusive; less than requested if CHUNK_RECIPIENTS was reached
    audience_complete: bool
    over_limit: bool  # the mailing is paused, since its audience exceeds its limit
    seconds: float
    first_message_id: int | None  # None if there are no recipients
    last_message_id: int | None


# A chunk that is being written; None if it was superseded and rolled back.
PendingChunk = Future[Chunk | None]


class ChunkSuperseded(Exception):
    """The chunk is rolled back: the mailing does not need it, or an earlier one is missing."""


def write_chunk(
    db: Database, launch: Launch, client_range: ClientRange, previous: PendingChunk | None
) -> Chunk | None:
    """Write the messages of a range's clients, of the first CHUNK_RECIPIENTS at most.

    Waits until the `previous` chunk is committed. Returns None if the chunk was superseded. Raises
    DatabaseError. In both cases nothing is written.
    """
    try:
        with db.transaction() as cursor:
            return _write_chunk(cursor, launch, client_range, previous)
    except ChunkSuperseded:
        return None


def _write_chunk(
    cursor: Cursor, launch: Launch, client_range: ClientRange, previous: PendingChunk | None
) -> Chunk:
    mailing_id, (after, until, first_message) = launch.mailing_id, client_range
    started = time.monotonic()
    cursor.execute(SET_PLANNER_OPTIONS)
    sizes = {"batch_size": launch.batch_size, "limit": CHUNK_RECIPIENTS}
    audience = audience_parameters(*launch.filter, client_ids=(after, until))
    values = client_range._asdict() | audience | sizes
    cursor.execute(WRITE_CHUNK, values | {"mailing": mailing_id})
    recipients, last_client, first_batch, last_batch = fetch_one_row(cursor)
    seconds = time.monotonic() - started
    if recipients == CHUNK_RECIPIENTS:
        until = last_client
    if previous is not None and previous.result() is None:
        raise ChunkSuperseded
    cursor.execute(LOCK_MAILING, (mailing_id,))
    status, stopped, complete, limit, audience, checkpoint, *window, now = fetch_one_row(cursor)
    if complete or stopped or checkpoint != after or status not in ("running", "paused"):
        raise ChunkSuperseded
    batches = mailing_id, first_batch, last_batch
    hours = make_window(*window)
    if recipients and hours is not None:
        cursor.execute(READ_ZONES, batches)
        zones = [zone for (zone,) in cursor.fetchall()]
        opens = [next_due(hours, zone, now) for zone in zones]
        cursor.execute(SCHEDULE_FOR_WINDOW, (zones, opens, *batches))
    over_limit = limit is not None and audience + recipients > limit
    complete = until >= launch.last_client_id and not over_limit
    cursor.execute(ADVANCE_CHECKPOINT, (recipients, until, complete, mailing_id))
    if over_limit:
        cursor.execute(PAUSE_OVER_LIMIT, (mailing_id,))
    elif not complete:
        cursor.execute(SET_ASYNCHRONOUS_COMMIT)
    if not recipients:
        return Chunk(0, after, until, complete, over_limit, seconds, None, None)
    cursor.execute(FIND_OPTED_OUT, {"mailing": mailing_id, "after": after, "until": until})
    status_changes.cancel_messages(cursor, cursor.fetchall(), Reason.OPTED_OUT)
    last_message = first_message + recipients - 1
    return Chunk(
        recipients, after, until, complete, over_limit, seconds, first_message, last_message
    )


def log_over_limit(mailing_id: int, **ids: object) -> None:
    """Log that a launch has stopped at the audience limit, after the commit."""
    log.warning("mailing.paused", reason=PauseReason.AUDIENCE_LIMIT, mailing_id=mailing_id, **ids)
