"""Reserves segments for a claimed batch, where a budget applies to its mailing.

If not all of its messages fit, the first ones by id do: the others move to a batch of their own.
If none fits, the claim is undone. The mailing is paused as soon as what was spent, without what is
reserved, leaves no room for its next message, and none of its own reservations is outstanding.
"""

from collections.abc import Iterable
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db import status_changes
from shared.db.budgets import (
    POLICY_BUDGET,
    BudgetUse,
    has_reservations,
    read_budgets,
)
from shared.db.on_commit import log_on_commit
from shared.db.prepared_statements import PreparedStatement
from shared.domain.segments import count_segments
from shared.domain.statuses import PauseReason
from shared.domain.templates import RenderingError
from worker.dispatch.claimed_batch import ClaimedBatch, MessageRow
from worker.recording.braking import LOCK_RUNNING, PAUSE
from worker.runtime.database import Database

RESERVE = PreparedStatement(
    "reserve",
    "UPDATE batches SET reserved = %(segments)s WHERE mailing_id = %(mailing)s AND id = %(batch)s",
)
# It goes behind the others: among them may be one of a dead worker, whose reservation ends with its
# next claim, and makes room.
UNDO_CLAIM = """
UPDATE batches SET leased_until = NULL, text_version = %s,
    due_at = greatest(due_at, now() + interval '1 second')
WHERE mailing_id = %s AND id = %s
"""
# The messages that do not fit can be claimed as soon as the budget has room again.
FREE_SPLIT_BATCH = """
UPDATE batches SET leased_until = NULL, retry_at = NULL, due_at = now(), text_version = %s
WHERE mailing_id = %s AND id = %s
"""
IN_DOUBT = """
SELECT id, segments FROM messages WHERE mailing_id = %s AND id BETWEEN %s AND %s
    AND batch_id = %s AND status = 'pending' AND in_doubt
"""
# A message in doubt has been charged: its text may have any length.
CHARGED = 1_000_000


class BlockedClaim(NamedTuple):
    """A claim that a budget has prevented, and the segments of the batch's first message."""

    mailing_id: int
    segments: int


def reserve_segments(cursor: Cursor, claimed: ClaimedBatch) -> BlockedClaim | None:
    """Reserve the segments of a batch that was just claimed; drop the messages that do not fit.

    The budgets must be locked, and what the transaction has charged must be written. If no message
    fits, the claim is undone and a BlockedClaim returned.
    """
    needs = _measure_rows(cursor, claimed)
    left = _find_left(read_budgets(cursor, POLICY_BUDGET, claimed.mailing_id))
    fitting: dict[int, int] = {}
    total = 0
    for row in claimed.rows:
        need = needs[row.message_id]
        cost = 0 if need == CHARGED else need
        if left is not None and total + cost > left:
            break
        total += cost
        fitting[row.message_id] = need
    place = claimed.mailing_id, claimed.batch_id
    if claimed.rows and not fitting:
        cursor.execute(UNDO_CLAIM, (claimed.first_text_version, *place))
        return BlockedClaim(claimed.mailing_id, needs[claimed.rows[0].message_id])
    if len(fitting) < len(claimed.rows):
        rest = [row.message_id for row in claimed.rows if row.message_id not in fitting]
        new, _ = status_changes.split_batch(cursor, *place, rest, claimed.timezone, claimed.end_at)
        cursor.execute(FREE_SPLIT_BATCH, (claimed.first_text_version, claimed.mailing_id, new))
        claimed.rows[:] = [row for row in claimed.rows if row.message_id in fitting]
    place_values = {"mailing": claimed.mailing_id, "batch": claimed.batch_id}
    RESERVE.run(cursor, place_values | {"segments": total})
    claimed.reservations = fitting
    return None


def _find_left(budgets: Iterable[BudgetUse]) -> int | None:
    return min((left for b in budgets if (left := b.left) is not None), default=None)


def _measure_rows(cursor: Cursor, claimed: ClaimedBatch) -> dict[int, int]:
    """Return the segments of the batch's pending messages by id, CHARGED for those in doubt."""
    charged = set()
    if claimed.has_doubts or claimed.taken_over:
        span = claimed.first_id, claimed.last_id
        cursor.execute(IN_DOUBT, (claimed.mailing_id, *span, claimed.batch_id))
        charged = {id_ for id_, segments in cursor.fetchall() if segments is not None}
    plain = claimed.template.plain
    constant = None if plain is None else count_segments(plain)
    return {
        row.message_id: CHARGED
        if row.message_id in charged
        else _measure(claimed, row)
        if constant is None
        else constant
        for row in claimed.rows
    }


def _measure(claimed: ClaimedBatch, row: MessageRow) -> int:
    """Return the segments of a personalised text; 0 if it cannot be rendered and will fail."""
    try:
        return count_segments(row.first_text or claimed.template.render(row.values or {}))
    except RenderingError:
        return 0


def pause_if_used_up(db: Database, blocked: BlockedClaim) -> bool:
    """Pause the mailing of a blocked claim if a budget has no room for it; return whether.

    While segments are reserved that may be released, or that its own messages will use, it waits.
    """
    mailing_id, segments = blocked
    with db.transaction() as cursor:
        cursor.execute(LOCK_RUNNING, (mailing_id,))
        if cursor.fetchone() is None:
            return False
        used_up = [
            budget
            for budget in read_budgets(cursor, POLICY_BUDGET, mailing_id)
            if budget.lacks(segments)
        ]
        if not used_up or has_reservations(cursor, mailing_id):
            return False
        cursor.execute(PAUSE, (PauseReason.BUDGET, mailing_id))
        budget = used_up[0]
        period = "day" if budget.day.lacks(segments) else "month"
        use = budget.day if period == "day" else budget.month
        log_on_commit(
            cursor,
            "mailing.budget_used_up",
            mailing_id=mailing_id,
            budget="policy" if budget.mailing_id == POLICY_BUDGET else "mailing",
            period=period,
            limit=use.limit,
            spent=use.spent,
        )
    return True
