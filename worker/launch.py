"""Launches a mailing: freezes its audience and writes its messages and batches.

The audience is the clients with an id up to the highest one at the launch's beginning, judged by
the filter once, chunk by chunk. A chunk is one short transaction that locks the mailing, re-checks
its status and its checkpoint, and moves both on; so a launch may die anywhere, be repeated, or run
twice. Sending begins after the first chunk.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import structlog
from psycopg2.extensions import cursor as Cursor

from shared import ledger
from shared.audience import COLUMNS, MATCHES, match_values
from shared.partitions import ensure_partition
from shared.rows import one_row
from shared.statuses import Reason
from shared.windows import Window, opens_at
from worker.database import Database

log = structlog.get_logger()

# The first chunk is small, so that the first message leaves at once; then chunks grow while they
# stay short, for as long as the mailing's row is locked its PATCH waits.
FIRST_SPAN = 2_000
NEXT_TURN_SPAN = 10_000
CHUNK_SECONDS = 0.2
CHUNK_RECIPIENTS = 50_000
# A launch longer than this gives way to the other jobs of its queue and goes on after them.
TURN_SECONDS = 1.0
# Between two turns, statistics are refreshed when the rows have grown by this factor.
ANALYZE_GROWTH = 4

BEGIN = """
SELECT status, start_at <= now(), end_at <= now(), started_at IS NOT NULL
FROM mailings WHERE id = %s FOR NO KEY UPDATE
"""
FREEZE = """
UPDATE mailings SET started_at = now(), updated_at = now(),
    status = CASE status WHEN 'scheduled' THEN 'running' ELSE status END,
    launch_last_client_id = (SELECT coalesce(max(id), 0) FROM clients)
WHERE id = %s
"""
# A chunk is sorted in memory; compiling its statement would take longer than running it.
TUNE = "SET LOCAL work_mem = '32MB'; SET LOCAL jit = off"
# A chunk need not be on disk before the next is begun: should PostgreSQL crash, it is gone together
# with its checkpoint, and done again. Whoever claims a batch of it has it flushed by that commit.
# The last one is waited for, and all before it with it.
DO_NOT_WAIT = "SET LOCAL synchronous_commit = off"
LOCK = f"""
SELECT status, audience_complete, launched_client_id, launch_last_client_id,
    window_from, window_to, now(), {COLUMNS}
FROM mailings WHERE id = %s FOR NO KEY UPDATE
"""  # noqa: S608 (COLUMNS is a constant)
# Recipients are numbered by zone, so that a batch holds consecutive messages of one zone. How many
# there are in each zone tells everybody's batch by division, and numbers sort faster than names.
FILL = f"""
WITH chosen AS MATERIALIZED (
    SELECT id AS client_id, timezone FROM clients
    WHERE id > %(after)s AND id <= %(until)s AND {MATCHES}
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
    SELECT *, take_ids('message_ids', recipients) - 1 AS message,
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
    SELECT message + 1, message + recipients, %(mailing)s FROM taken WHERE message IS NOT NULL
)
SELECT recipients, last_client, batch + 1, batch + batches, message + 1, message + recipients
FROM taken
"""  # noqa: S608 (MATCHES is a constant)
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
PARTITION = """
SELECT first_mailing_id FROM partition_ranges
WHERE %s BETWEEN first_mailing_id AND until_mailing_id - 1
"""


class Chunk(NamedTuple):
    """What one chunk did."""

    recipients: int
    span: int
    audience_complete: bool
    seconds: float
    first_message_id: int | None  # None if there are no recipients
    last_message_id: int | None


def launch(db: Database, mailing_id: int, batch_size: int, wake: Callable[[], object]) -> bool:
    """Launch for up to TURN_SECONDS; return whether something is left to do.

    `wake` is called when batches are ready to be sent. Raises DatabaseError; nothing is lost then.
    """
    with db.transaction() as cursor:
        span = _begin(cursor, mailing_id)
        if span is None:
            return False
    with db.transaction() as cursor:
        ensure_partition(cursor, mailing_id)
    started = time.monotonic()
    filled, analyzed = 0, 0
    while True:
        with db.transaction() as cursor:
            chunk = _fill_chunk(cursor, mailing_id, span, batch_size)
        if chunk is None:
            return False
        filled += chunk.recipients
        log.info(
            "launch.chunk",
            mailing_id=mailing_id,
            recipients=chunk.recipients,
            first_message_id=chunk.first_message_id,
            last_message_id=chunk.last_message_id,
            seconds=round(chunk.seconds, 3),
            audience_complete=chunk.audience_complete,
        )
        if chunk.recipients:
            wake()
        if filled > analyzed * ANALYZE_GROWTH:
            _analyze(db, mailing_id)
            analyzed = filled
        if chunk.audience_complete:
            return False
        if time.monotonic() - started > TURN_SECONDS:
            return True
        span = _next_span(chunk)


def _begin(cursor: Cursor, mailing_id: int) -> int | None:
    """Freeze the audience if the mailing's time has come; return the first chunk's span of ids.

    None says that there is nothing to fill.
    """
    cursor.execute(BEGIN, (mailing_id,))
    row = cursor.fetchone()
    if row is None:
        return None
    status, due, ended, launched = row
    if launched:
        return NEXT_TURN_SPAN if status in ("running", "paused") else None
    # One that was paused until its end never started; its audience is written all the same, so
    # that the books say who was not reached.
    if not ((status == "scheduled" and due) or (status == "paused" and ended)):
        return None
    cursor.execute(FREEZE, (mailing_id,))
    log.info("mailing.started", mailing_id=mailing_id)
    return FIRST_SPAN


def _fill_chunk(cursor: Cursor, mailing_id: int, span: int, batch_size: int) -> Chunk | None:
    """Write the messages of the next `span` client ids, or of fewer if they are many.

    None if there is nothing left to write.
    """
    started = time.monotonic()
    cursor.execute(TUNE)
    cursor.execute(LOCK, (mailing_id,))
    status, complete, after, last, window_from, window_to, now, *audience = one_row(cursor)
    if complete or status not in ("running", "paused"):
        return None
    phones = audience[-1]
    # Clients who are listed one by one are few, and are found by their phones in one go.
    until = last if phones else min(after + span, last)
    cursor.execute(
        FILL,
        {
            "mailing": mailing_id,
            "batch_size": batch_size,
            "after": after,
            "until": until,
            "most": CHUNK_RECIPIENTS,
            **match_values(*audience),
        },
    )
    recipients, reached, first_batch, last_batch, first_message, last_message = one_row(cursor)
    if recipients == CHUNK_RECIPIENTS:
        until = reached
    if recipients and window_from is not None:
        window = Window(window_from, window_to)
        cursor.execute(NEW_ZONES, (mailing_id, first_batch, last_batch))
        zones = [zone for (zone,) in cursor.fetchall()]
        opens = [opens_at(window, zone, now) for zone in zones]
        cursor.execute(WAIT_FOR_WINDOW, (zones, opens, mailing_id, first_batch, last_batch))
    cursor.execute(ADVANCE, (recipients, until, until >= last, mailing_id))
    if until < last:
        cursor.execute(DO_NOT_WAIT)
    if recipients:
        cursor.execute(OPTED_OUT, {"mailing": mailing_id, "after": after, "until": until})
        ledger.cancel_messages(cursor, cursor.fetchall(), Reason.OPTED_OUT)
    seconds = time.monotonic() - started
    return Chunk(recipients, until - after, until >= last, seconds, first_message, last_message)


def _next_span(chunk: Chunk) -> int:
    """The next span of client ids: as many as fit CHUNK_SECONDS."""
    growth = min(16.0, max(0.25, CHUNK_SECONDS / max(chunk.seconds, 0.001)))
    return max(FIRST_SPAN // 10, int(chunk.span * growth))


def _analyze(db: Database, mailing_id: int) -> None:
    """Refresh the planner's picture of partitions that were filled in bulk."""
    with db.transaction() as cursor:
        cursor.execute(PARTITION, (mailing_id,))
        (first,) = one_row(cursor)
        # A tenth of the usual sample: that is enough to choose between an index and a scan, and
        # the full one would cost as much as launching 100,000 recipients.
        cursor.execute("SET LOCAL default_statistics_target = 10")
        cursor.execute(f"ANALYZE (SKIP_LOCKED) messages_p{first}, batches_p{first}")
