"""Chooses and claims batches, and reads what is to be sent in them.

A claim takes a lease and a new token on one due batch. Whoever takes over a batch whose lease ran
out first marks what is pending in it as in doubt: its last holder may have sent it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, time
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.batch_conditions import DUE, FREE
from shared.db.prepared_statements import PreparedStatement
from shared.db.rows import fetch_one_row
from shared.domain.attributes import placeholder_values
from shared.domain.send_windows import Window
from shared.domain.templates import Template, compile_stored_template
from worker.runtime.clock import DatabaseClock, boottime
from worker.runtime.database import Database

DUE_MAILINGS = f"""
SELECT m.id, m.rate_limit FROM mailings m
WHERE NOT m.settled AND m.status = 'running' AND m.end_at > now() AND EXISTS (
    SELECT 1 FROM batches WHERE mailing_id = m.id AND {DUE} AND {FREE})
"""  # noqa: S608 (FREE is a constant)

# The choice is materialized, for it must be made once: a plan that looked again for each batch it
# tries would find the first one changed and lock the next, and so lease them all.
# What fails from now on failed after the last retry-failed, which is not to revive it.
CLAIM = PreparedStatement(
    "claim",
    f"""
WITH c AS MATERIALIZED (
    SELECT id, leased_until IS NOT NULL AS taken_over FROM batches
    WHERE mailing_id = %(mailing)s AND {DUE} AND {FREE}
    ORDER BY due_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE batches b SET token = b.token + 1, flush = 0,
    leased_until = now() + %(lease)s * interval '1 second',
    text_version = coalesce(b.text_version, m.text_version),
    retry_version = CASE WHEN b.failed = 0 THEN m.retry_version ELSE b.retry_version END
FROM c, mailings m, mailing_texts t
WHERE b.mailing_id = %(mailing)s AND b.id = c.id AND m.id = %(mailing)s
    AND m.status = 'running' AND m.end_at > now() AND t.mailing_id = m.id
    AND t.version = coalesce(b.text_version, m.text_version)
RETURNING b.id, b.token, b.attempt, b.first_id, b.last_id, b.timezone, b.has_attempts,
    c.taken_over, t.version, t.text, m.end_at, m.window_from, m.window_to, m.rate_limit,
    m.request_id, clock_timestamp()
""",  # noqa: S608
)

# `values` is what the text's placeholders stand for: read only where it has some.
_ROWS = """
SELECT m.id, m.client_id, c.phone, m.attempts, NULL, NULL, o.phone IS NOT NULL, {values}
FROM messages m LEFT JOIN clients c ON c.id = m.client_id
LEFT JOIN opt_outs o ON o.phone = c.phone
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND m.status = 'pending'
ORDER BY m.id
"""
# A retry repeats what the provider may already have: the phone and text of the first attempt.
_ROWS_WITH_ATTEMPTS = """
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
NOTHING = "NULL"
VALUES = placeholder_values("c")
# By whether they have attempts, and whether the text has placeholders.
ROWS = {
    (False, False): PreparedStatement("rows", _ROWS.format(values=NOTHING)),
    (True, False): PreparedStatement(
        "rows_with_attempts", _ROWS_WITH_ATTEMPTS.format(values=NOTHING)
    ),
    (False, True): PreparedStatement("personal_rows", _ROWS.format(values=VALUES)),
    (True, True): PreparedStatement(
        "personal_rows_with_attempts", _ROWS_WITH_ATTEMPTS.format(values=VALUES)
    ),
}

WATCH = """
SELECT id, status, end_at, window_from, window_to, rate_limit FROM mailings
WHERE id = ANY (%s)
"""
THROTTLE = "SELECT throttled_until FROM provider_state"
# The longest that was asked for wins; a stale one does no harm.
SET_THROTTLE = """
UPDATE provider_state SET throttled_until =
    greatest(throttled_until, clock_timestamp() + %s * interval '1 second')
"""
NOTE_OPENING = "INSERT INTO breaker_openings (reason) VALUES (%s) ON CONFLICT DO NOTHING"


class Due(NamedTuple):
    """A mailing that has a batch to claim; `rate_limit` in messages per second."""

    mailing_id: int
    rate_limit: int | None


class Row(NamedTuple):
    """A message to hand off. `phone` is None if the client was erased.

    `first_phone` and `first_text` are those of an earlier attempt that was not accepted.
    `opted_out` says that this phone, or the one that a retry would repeat, is never to be written
    to. `values` are what a text's placeholders stand for, if it has any.
    """

    message_id: int
    client_id: int
    phone: int | None
    attempts: int
    first_phone: int | None
    first_text: str | None
    opted_out: bool
    values: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Claim:
    """A batch with a lease, as it was claimed. `lease_start` is a boottime before the claim."""

    mailing_id: int
    batch_id: int
    token: int
    attempt: int
    first_id: int
    last_id: int
    timezone: str
    has_attempts: bool
    text_version: int
    text: str
    template: Template
    end_at: datetime
    window: Window | None
    rate_limit: int | None
    request_id: str | None
    lease_start: float
    rows: list[Row]
    taken_over: bool = False


class Watched(NamedTuple):
    """What may change about a mailing while its batches are held."""

    status: str
    end_at: datetime
    window: Window | None
    rate_limit: int | None


def due_mailings(db: Database, lease_seconds: float) -> list[Due]:
    """The running mailings that have a batch to claim now."""
    with db.transaction() as cursor:
        cursor.execute(DUE_MAILINGS, {"lease": lease_seconds})
        return [Due(*row) for row in cursor.fetchall()]


def claim(
    db: Database, clock: DatabaseClock, mailing_id: int, lease_seconds: float
) -> Claim | None:
    """Claim the mailing's next due batch and read what is pending in it; None if there is none."""
    lease_start = boottime()
    with db.transaction() as cursor:
        CLAIM.run(cursor, {"mailing": mailing_id, "lease": lease_seconds})
        row = cursor.fetchone()
        if row is None:
            return None
        (
            batch_id,
            token,
            attempt,
            first_id,
            last_id,
            timezone,
            has_attempts,
            taken_over,
            version,
            text,
            end_at,
            window_from,
            window_to,
            rate_limit,
            request_id,
            instant,
        ) = row
        clock.observe(instant, lease_start, boottime())
        if taken_over:
            status_changes.mark_in_doubt(cursor, mailing_id, batch_id, (first_id, last_id), None)
        template = compile_stored_template(text)
        personal = template.plain is None
        rows = _read(cursor, mailing_id, batch_id, first_id, last_id, has_attempts, personal)
    return Claim(
        mailing_id,
        batch_id,
        token,
        attempt,
        first_id,
        last_id,
        timezone,
        has_attempts,
        version,
        text,
        template,
        end_at,
        _window(window_from, window_to),
        rate_limit,
        request_id,
        lease_start,
        rows,
        taken_over,
    )


def read_again(db: Database, claimed: Claim) -> list[Row]:
    """What is pending in a claimed batch now: clients may have been changed or deleted since."""
    with db.transaction() as cursor:
        return _read(
            cursor,
            claimed.mailing_id,
            claimed.batch_id,
            claimed.first_id,
            claimed.last_id,
            claimed.has_attempts,
            claimed.template.plain is None,
        )


def watch(
    db: Database, clock: DatabaseClock, mailing_ids: Collection[int]
) -> tuple[dict[int, Watched], datetime | None]:
    """The present state of mailings, and until when the provider asked the fleet to wait."""
    with db.transaction() as cursor:
        clock.read(cursor)
        cursor.execute(WATCH, (list(mailing_ids),))
        watched = {
            id_: Watched(status, end_at, _window(start, end), rate_limit)
            for id_, status, end_at, start, end, rate_limit in cursor.fetchall()
        }
        cursor.execute(THROTTLE)
        (throttled_until,) = fetch_one_row(cursor)
    return watched, throttled_until


def throttle(db: Database, seconds: float) -> None:
    """Remember that the provider asked the whole fleet to wait."""
    with db.transaction() as cursor:
        cursor.execute(SET_THROTTLE, (seconds,))


def note_opening(db: Database, reason: str) -> None:
    """Remember that the breaker opened now, for the daily report."""
    with db.transaction() as cursor:
        cursor.execute(NOTE_OPENING, (reason,))


def _read(
    cursor: Cursor,
    mailing_id: int,
    batch_id: int,
    first_id: int,
    last_id: int,
    pinned: bool,
    personal: bool,
) -> list[Row]:
    ROWS[pinned, personal].run(
        cursor,
        {"mailing": mailing_id, "batch": batch_id, "first": first_id, "last": last_id},
    )
    return [Row(*row) for row in cursor.fetchall()]


def _window(start: time | None, end: time | None) -> Window | None:
    return None if start is None or end is None else Window(start, end)
