"""SQL that finds due mailings, claims batches and fetches the messages to send.

A claim takes a lease and a new token on one due batch. A claim of a batch whose lease ran out first
marks its pending messages as in doubt, since the previous holder may have sent them.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import structlog
from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.batch_conditions import DUE, FREE, MAY_SEND
from shared.db.budgets import lock_budgets
from shared.db.connections import TRANSIENT_ERRORS
from shared.db.minute_counts import MinuteKey, add_minute_counts
from shared.db.policy import STOP_WHEN
from shared.db.prepared_statements import PreparedStatement
from shared.db.pulse import record_pulse
from shared.domain.attributes import placeholder_values
from shared.domain.send_windows import make_window
from shared.domain.templates import compile_stored_template
from worker.dispatch.budget_claims import pause_if_used_up, reserve_segments
from worker.dispatch.claimed_batch import ClaimedBatch, MessageRow
from worker.runtime.clock import DatabaseClock, boottime
from worker.runtime.database import Database

log = structlog.get_logger()

# Due batches of one mailing that are counted: as many as a small mailing has, one for each zone.
MAX_COUNTED_BATCHES = 10
# Two steps, so that only the batches of due mailings are read one mailing at a time.
DUE_MAILINGS = f"""
WITH due AS MATERIALIZED (
    SELECT m.id, m.rate_limit FROM mailings m
    WHERE NOT m.settled AND {MAY_SEND} AND EXISTS (
        SELECT 1 FROM batches WHERE mailing_id = m.id AND {DUE} AND {FREE})
)
SELECT due.id, due.rate_limit, next.messages, next.batches
FROM due CROSS JOIN LATERAL (
    SELECT count(*) AS batches, (array_agg(pending))[1] AS messages
    FROM (SELECT pending FROM batches WHERE mailing_id = due.id AND {DUE} AND {FREE}
        ORDER BY due_at LIMIT {MAX_COUNTED_BATCHES}) AS claimable
) AS next
WHERE next.batches > 0
"""  # noqa: S608 (constants)

# MATERIALIZED, because the batch must be chosen once: a plan that chose again for each batch it
# tries would find the first one changed, lock the next, and so lease them all.
# Failures from now on happen after the last retry-failed, so that one must not reset them.
CLAIM_BATCH = PreparedStatement(
    "claim",
    f"""
WITH c AS MATERIALIZED (
    SELECT id, leased_until IS NOT NULL AS taken_over, text_version AS first_text_version
    FROM batches
    WHERE mailing_id = %(mailing)s AND {DUE} AND {FREE}
    ORDER BY due_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE batches b SET token = b.token + 1, flush = 0, reserved = 0,
    leased_until = now() + %(lease)s * interval '1 second',
    text_version = coalesce(b.text_version, m.text_version),
    retry_version = CASE WHEN b.failed = 0 THEN m.retry_version ELSE b.retry_version END
FROM c, mailings m, mailing_texts t
WHERE b.mailing_id = %(mailing)s AND b.id = c.id AND m.id = %(mailing)s
    AND {MAY_SEND} AND t.mailing_id = m.id
    AND t.version = coalesce(b.text_version, m.text_version)
RETURNING m.id AS mailing_id, b.id AS batch_id, b.token, b.attempt, b.first_id, b.last_id,
    b.timezone, b.has_attempts, c.taken_over, c.first_text_version, b.in_doubt > 0 AS has_doubts,
    EXISTS (SELECT FROM budgets WHERE mailing_id IN (0, m.id)) AS budgeted, t.text, m.end_at,
    m.rate_limit, m.request_id, m.window_from, m.window_to, m.answer_round,
    {STOP_WHEN} AS stop_when, clock_timestamp() AS now
""",  # noqa: S608
)

# `values` are those of the text's placeholders: fetched only if it has any.
_MESSAGES = """
SELECT m.id, m.client_id, c.phone, m.attempts, NULL, NULL, o.phone IS NOT NULL, {values}
FROM messages m LEFT JOIN clients c ON c.id = m.client_id
LEFT JOIN opt_outs o ON o.phone = c.phone
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND m.status = 'pending'
ORDER BY m.id
"""
# The provider may already have the message, so a retry repeats the first attempt's phone and text.
_MESSAGES_WITH_ATTEMPTS = """
SELECT m.id, m.client_id, c.phone, m.attempts, a.phone, a.text,
    EXISTS (SELECT 1 FROM opt_outs WHERE phone IN (c.phone, a.phone)), {values}
FROM messages m LEFT JOIN clients c ON c.id = m.client_id
LEFT JOIN LATERAL (
    SELECT phone, text FROM attempts
    WHERE mailing_id = %(mailing)s AND message_id = m.id ORDER BY at LIMIT 1
) a ON true
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND m.status = 'pending'
ORDER BY m.id
"""
CLIENT_VALUES = placeholder_values("c")
# By whether the batch has attempts, and whether its text has placeholders.
PENDING_MESSAGES = {
    (attempts, personal): PreparedStatement(
        f"{'personal_' if personal else ''}rows{'_with_attempts' if attempts else ''}",
        (_MESSAGES_WITH_ATTEMPTS if attempts else _MESSAGES).format(
            values=CLIENT_VALUES if personal else "NULL"
        ),
    )
    for attempts in (False, True)
    for personal in (False, True)
}

# The latest instant wins; one in the past has no effect.
EXTEND_THROTTLE = """
UPDATE provider_state SET throttled_until =
    greatest(throttled_until, clock_timestamp() + %s * interval '1 second')
"""
INSERT_OPENING = "INSERT INTO breaker_openings (reason) VALUES (%s) ON CONFLICT DO NOTHING"


class DueMailing(NamedTuple):
    """A mailing with batches to claim."""

    rate_limit: int | None  # messages per second
    messages: int  # in the next batch
    batches: int  # MAX_COUNTED_BATCHES may be more


def fetch_due_mailings(
    db: Database, lease_seconds: float, end_margin: float = 0.0
) -> dict[int, DueMailing]:
    """Return the running mailings with a batch to claim now, by id. Records the pulse first."""
    with db.autocommit() as cursor:
        record_pulse(cursor)
    with db.transaction() as cursor:
        cursor.execute(DUE_MAILINGS, {"lease": lease_seconds, "end_margin": end_margin})
        return {mailing_id: DueMailing(*row) for mailing_id, *row in cursor.fetchall()}


def claim_batches(
    db: Database,
    clock: DatabaseClock,
    mailing_ids: Sequence[int],
    lease_seconds: float,
    end_margin: float = 0.0,
) -> list[ClaimedBatch]:
    """Claim the next due batch of each mailing, if it has one, in one transaction.

    Several batches are claimed of a mailing that is given several times. They come with their
    pending messages. If that is impossible for one of several mailings, each is claimed alone.
    """
    try:
        return _claim_together(db, clock, mailing_ids, lease_seconds, end_margin)
    except TRANSIENT_ERRORS:
        raise
    except Exception:  # of one mailing: it is found, and logged, by claiming each alone
        if len(mailing_ids) == 1:
            raise
    claims: list[ClaimedBatch] = []
    for mailing_id in mailing_ids:
        try:
            claims += _claim_together(db, clock, [mailing_id], lease_seconds, end_margin)
        except TRANSIENT_ERRORS:
            break  # what was claimed must be sent
        except Exception as error:
            log.error("database.refused", what="claim", mailing_id=mailing_id, exc_info=error)
    return claims


def _claim_together(
    db: Database,
    clock: DatabaseClock,
    mailing_ids: Sequence[int],
    lease_seconds: float,
    end_margin: float,
) -> list[ClaimedBatch]:
    lease_start = boottime()
    with db.transaction() as cursor:
        minutes: Counter[MinuteKey] = Counter()
        # In the order in which every transaction locks batches of several mailings.
        found = [
            _claim_batch(cursor, minutes, clock, mailing_id, lease_seconds, end_margin, lease_start)
            for mailing_id in sorted(mailing_ids)
        ]
        claims = [claimed for claimed in found if claimed is not None]
        budgeted = [claimed for claimed in claims if claimed.budgeted]
        if budgeted:
            lock_budgets(cursor, {claimed.mailing_id for claimed in budgeted})
        add_minute_counts(cursor, minutes)
        blocked = [each for c in budgeted if (each := reserve_segments(cursor, c)) is not None]
    for each in blocked:
        pause_if_used_up(db, each)
    return [c for c in claims if not c.budgeted or c.reservations is not None]


def _claim_batch(
    cursor: Cursor,
    minutes: Counter[MinuteKey],
    clock: DatabaseClock,
    mailing_id: int,
    lease_seconds: float,
    end_margin: float,
    lease_start: float,
) -> ClaimedBatch | None:
    before = boottime()
    values = {"mailing": mailing_id, "lease": lease_seconds, "end_margin": end_margin}
    CLAIM_BATCH.run(cursor, values)
    row = cursor.fetchone()
    if row is None:
        return None
    columns = dict(zip((each.name for each in cursor.description or ()), row, strict=True))
    clock.observe(columns.pop("now"), before, boottime())
    claimed = ClaimedBatch(
        window=make_window(columns.pop("window_from"), columns.pop("window_to")),
        template=compile_stored_template(columns["text"]),
        lease_start=lease_start,
        **columns,
    )
    if claimed.taken_over:
        span = (claimed.first_id, claimed.last_id)
        status_changes.mark_in_doubt(cursor, minutes, mailing_id, claimed.batch_id, span, None)
    claimed.rows.extend(_fetch_rows(cursor, claimed))
    return claimed


def fetch_pending_rows(db: Database, claimed: ClaimedBatch) -> list[MessageRow]:
    """Return a claimed batch's messages that are pending now, with their clients' present data."""
    with db.transaction() as cursor:
        return _fetch_rows(cursor, claimed)


def extend_throttle(db: Database, seconds: float) -> None:
    """Record that the provider asked the whole fleet to wait."""
    with db.transaction() as cursor:
        cursor.execute(EXTEND_THROTTLE, (seconds,))


def record_breaker_opening(db: Database, reason: str) -> None:
    """Record that the circuit breaker opened now, for the daily report."""
    with db.transaction() as cursor:
        cursor.execute(INSERT_OPENING, (reason,))


def _fetch_rows(cursor: Cursor, claimed: ClaimedBatch) -> list[MessageRow]:
    personal = claimed.template.plain is None
    PENDING_MESSAGES[claimed.has_attempts, personal].run(
        cursor,
        {
            "mailing": claimed.mailing_id,
            "batch": claimed.batch_id,
            "first": claimed.first_id,
            "last": claimed.last_id,
        },
    )
    return [MessageRow(*row) for row in cursor.fetchall()]
