"""The counts of a mailing's messages: one definition for statistics, live figures and metrics.

A settled mailing's counts are frozen on its row, and its batches are not read; those of others are
sums over their batches. All counts of one statement belong to one instant, at which
audience = pending + sent + failed + expired + cancelled and
pending = in_progress + due + retrying + waiting.
"""

from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.batch_conditions import DUE, LEASED
from shared.db.rows import fetch_one_row

# The counts that reports change, and those that a mailing's row holds once the mailing is settled:
# opted-out recipients, a part of the cancelled ones, are counted apart from nearly every report.
REPORTED_COUNTS = (
    "sent",
    "failed",
    "expired",
    "cancelled",
    "in_doubt",
    "sent_segments",
    "in_doubt_segments",
)
SETTLED_COUNTS = (*REPORTED_COUNTS, "cancelled_opted_out")
ENDED_COLUMNS = ",\n".join(
    f"CASE WHEN m.settled THEN m.{name} ELSE coalesce(sum({name}), 0)::bigint END AS {name}"
    for name in SETTLED_COUNTS
)
PENDING_COLUMNS = ",\n".join(
    f"coalesce(sum(pending) FILTER (WHERE state = '{name}'), 0)::bigint AS {name}"
    for name in ("in_progress", "due", "retrying", "waiting")
)


def counts_join(mailing_id: str = "m.id") -> str:
    """Return SQL that joins the row `counts` to `mailings m`.

    Its columns are those of MailingCounts, and of the batches that a dispatcher could claim if the
    mailing is running: their number `due_batches`, and `oldest_due_at`.
    (After an outage of PostgreSQL a dispatcher waits a little longer: see batch_conditions.py.)
    `mailing_id` is an expression for m.id; a constant lets PostgreSQL plan for one partition.
    """
    return f"""
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(pending), 0)::bigint AS pending, {ENDED_COLUMNS},
            {PENDING_COLUMNS},
            count(*) FILTER (WHERE state = 'due') AS due_batches,
            min(due_at) FILTER (WHERE state = 'due') AS oldest_due_at
        FROM batches CROSS JOIN LATERAL (
            SELECT CASE WHEN {LEASED} THEN 'in_progress' WHEN {DUE} THEN 'due'
                WHEN retry_at > now() THEN 'retrying' ELSE 'waiting' END AS state
        ) AS classified
        WHERE mailing_id = {mailing_id} AND NOT m.settled
    ) AS counts
    """  # noqa: S608 (constants)


class MailingCounts(NamedTuple):
    """How many of a mailing's messages are in each status; the pending ones are split four ways.

    `in_doubt` messages are counted in their status as well.
    """

    pending: int
    sent: int
    failed: int
    expired: int
    cancelled: int
    in_doubt: int
    sent_segments: int  # SMS segments of messages that were sent
    in_doubt_segments: int
    in_progress: int  # in a batch that a dispatcher has leased
    due: int  # in a batch that a dispatcher may claim
    retrying: int  # in a batch that waits after failed attempts
    waiting: int  # in a batch that waits for its window
    cancelled_opted_out: int  # of the cancelled ones


COUNTS_JOIN = counts_join()
ONE_MAILING = f"""
SELECT {", ".join(f"counts.{name}" for name in MailingCounts._fields)}
FROM mailings m {counts_join("%(mailing)s")} WHERE m.id = %(mailing)s
"""  # noqa: S608 (constants)


def read_mailing_counts(cursor: Cursor, mailing_id: int) -> MailingCounts:
    """Read the counts of one mailing in one statement."""
    cursor.execute(ONE_MAILING, {"mailing": mailing_id})
    return MailingCounts(*fetch_one_row(cursor))
