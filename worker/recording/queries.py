"""SQL of the recording transaction, in the order in which it locks: mailing, batches, messages."""

from collections.abc import Iterable
from datetime import datetime

from shared.db.mailing_counts import REPORTED_COUNTS, SETTLED_COUNTS
from shared.db.prepared_statements import PreparedStatement

# The counts of a batch that a report changes.
BATCH_COUNTS = ("pending", *REPORTED_COUNTS)

LOCK_MAILING = "SELECT settled FROM mailings WHERE id = %s FOR NO KEY UPDATE"
SHARE_WINDOW = "SELECT window_from, window_to, now() FROM mailings WHERE id = %s FOR SHARE"
LOCK_BATCHES = PreparedStatement(
    "lock_batches",
    """
SELECT id, token, flush, timezone, pending FROM batches
WHERE mailing_id = %(mailing)s AND id = ANY (%(ids)s) ORDER BY id FOR NO KEY UPDATE
""",
)
# A batch's accepted messages, by a range of ids: `times` has an instant for each id of the range, 0
# for an id that is not reported. It costs PostgreSQL a quarter less than a join with a list of ids.
ACCEPT_MESSAGES = PreparedStatement(
    "accept_messages",
    """
UPDATE messages m SET status = 'sent', attempts = attempts + 1,
    sent_at = to_timestamp((%(times)s::float8[])[m.id - %(first)s + 1])
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND (%(times)s::float8[])[m.id - %(first)s + 1] > 0
    AND m.status = 'pending' AND NOT m.in_doubt
""",
)
# The same of a text with placeholders: `segments` has the segments of each id of the range.
ACCEPT_PERSONAL_MESSAGES = PreparedStatement(
    "accept_personal_messages",
    """
UPDATE messages m SET status = 'sent', attempts = attempts + 1,
    sent_at = to_timestamp((%(times)s::float8[])[m.id - %(first)s + 1]),
    segments = (%(segments)s::smallint[])[m.id - %(first)s + 1]
WHERE m.mailing_id = %(mailing)s AND m.id BETWEEN %(first)s AND %(last)s
    AND m.batch_id = %(batch)s AND (%(times)s::float8[])[m.id - %(first)s + 1] > 0
    AND m.status = 'pending' AND NOT m.in_doubt
""",
)
READ_MESSAGES = """
SELECT now(), id, batch_id, client_id, segments, status, attempts, in_doubt, reason FROM messages
WHERE mailing_id = %s AND id = ANY (%s::bigint[]) ORDER BY id
"""
UPDATE_MESSAGES = """
UPDATE messages m SET status = r.status::message_status, attempts = r.attempts,
    in_doubt = r.in_doubt, reason = r.reason, sent_at = to_timestamp(r.sent_at),
    segments = r.segments
FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::bool[], %s::text[], %s::float8[],
    %s::smallint[]) AS r (id, status, attempts, in_doubt, reason, sent_at, segments)
WHERE m.mailing_id = %s AND m.id BETWEEN %s AND %s AND m.id = r.id
"""
# Requests that were not accepted: a retry repeats their phone and text.
INSERT_ATTEMPTS = """
INSERT INTO attempts (mailing_id, message_id, at, outcome, reason, http_status, latency_ms,
    excerpt, phone, text)
SELECT %s, id, to_timestamp(at), outcome, reason, http_status, latency_ms, excerpt, phone, text
FROM unnest(%s::bigint[], %s::float8[], %s::text[], %s::text[], %s::smallint[], %s::int[],
    %s::text[], %s::bigint[], %s::text[])
    AS t (id, at, outcome, reason, http_status, latency_ms, excerpt, phone, text)
ON CONFLICT DO NOTHING
"""
# One array per column: the changes of the counts first, then the report's effect on the lease.
BATCH_COLUMNS = {
    "id": "bigint",
    **dict.fromkeys(BATCH_COUNTS, "int"),
    "has_attempts": "bool",
    "held": "bool",
    "number": "int",
    "released": "bool",
    "backoff": "bool",
    "delay": "float8",
    "opens": "timestamptz",
}
UPDATE_BATCHES = PreparedStatement(
    "update_batches",
    f"""
UPDATE batches b SET {", ".join(f"{name} = b.{name} + r.{name}" for name in BATCH_COUNTS)},
    has_attempts = b.has_attempts OR r.has_attempts,
    flush = CASE WHEN r.held THEN r.number ELSE b.flush END,
    attempt = b.attempt + r.backoff::int,
    leased_until = CASE WHEN NOT r.held THEN b.leased_until WHEN r.released THEN NULL
        ELSE now() + %(lease)s * interval '1 second' END,
    reserved = CASE WHEN r.held AND r.released THEN 0
        ELSE greatest(0, b.reserved - r.sent_segments - r.in_doubt_segments) END,
    retry_at = CASE WHEN b.pending + r.pending = 0 THEN NULL
        WHEN r.held AND r.released
            THEN CASE WHEN r.backoff THEN now() + r.delay * interval '1 second' END
        ELSE b.retry_at END,
    due_at = CASE WHEN b.pending + r.pending = 0 THEN NULL
        WHEN r.held AND r.released
            THEN coalesce(r.opens, now() + r.delay * interval '1 second')
        ELSE b.due_at END
FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in BATCH_COLUMNS.items())})
    AS r ({", ".join(BATCH_COLUMNS)})
WHERE b.mailing_id = %(mailing)s AND b.id = r.id
RETURNING b.id, b.pending, CASE WHEN r.held AND r.released THEN b.due_at END
""",  # noqa: S608 (constants)
)
# Seldom: a client opted out between launch and claim, or was accepted after opting out.
ADD_OPTED_OUT = """
UPDATE batches SET cancelled_opted_out = cancelled_opted_out + %s WHERE mailing_id = %s AND id = %s
"""
UPDATE_TOTALS = f"""
UPDATE mailings SET {", ".join(f"{name} = {name} + %s" for name in SETTLED_COUNTS)} WHERE id = %s
"""  # noqa: S608 (SETTLED_COUNTS is a constant)


def format_array(values: Iterable[float | datetime | None]) -> str:
    """Format a PostgreSQL array literal, which is parsed faster than an ARRAY expression."""
    return "{" + ",".join(map(_format_element, values)) + "}"


def _format_element(value: float | datetime | None) -> str:
    if value is None:
        return "NULL"
    return value.isoformat() if isinstance(value, datetime) else repr(value)
