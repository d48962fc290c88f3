"""The most frequent refusals of the provider, of one mailing or of several."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

# Shown of each mailing.
MAX_REFUSALS = 5

MOST_FREQUENT = """
SELECT mailing_id, http_status, reason, n, example FROM (
    SELECT mailing_id, http_status, reason, sum(count)::bigint AS n,
        (array_agg(example ORDER BY last_at DESC))[1] AS example,
        row_number() OVER (PARTITION BY mailing_id
            ORDER BY sum(count) DESC, http_status, reason) AS place
    FROM refusal_counts WHERE mailing_id = ANY (%s::bigint[]) GROUP BY 1, 2, 3
) AS counted WHERE place <= %s ORDER BY mailing_id, place
"""


class Refusal(NamedTuple):
    """Refusals with one status and reason: how many, and the answer of a recent one."""

    http_status: int
    reason: str
    count: int  # type: ignore[assignment]  # hides tuple.count, which nothing calls
    example: str


def read_refusals(
    cursor: Cursor, mailing_ids: Sequence[int], limit: int = MAX_REFUSALS
) -> dict[int, list[Refusal]]:
    """Return each mailing's most frequent refusals, the most frequent first."""
    refusals: dict[int, list[Refusal]] = defaultdict(list)
    if mailing_ids:
        cursor.execute(MOST_FREQUENT, (list(mailing_ids), limit))
        for mailing_id, *refusal in cursor.fetchall():
            refusals[mailing_id].append(Refusal(*refusal))
    return refusals
