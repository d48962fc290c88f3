"""Keeps the requests that were not accepted, so that a retry repeats what was handed off."""

from collections.abc import Sequence
from typing import Any

from psycopg2.extensions import cursor as Cursor

ATTEMPTS = """
INSERT INTO attempts (mailing_id, message_id, at, outcome, reason, http_status, latency_ms,
    excerpt, phone, text)
SELECT %s, id, to_timestamp(at), outcome, reason, http_status, latency_ms, excerpt, phone, text
FROM unnest(%s::bigint[], %s::float8[], %s::text[], %s::text[], %s::smallint[], %s::int[],
    %s::text[], %s::bigint[], %s::text[])
    AS t (id, at, outcome, reason, http_status, latency_ms, excerpt, phone, text)
ON CONFLICT DO NOTHING
"""


def keep_attempts(cursor: Cursor, mailing_id: int, rows: Sequence[tuple[Any, ...]]) -> None:
    """Write attempts down, given as a message id and an AttemptRecord's fields each."""
    cursor.execute(ATTEMPTS, (mailing_id, *map(list, zip(*rows, strict=True))))
