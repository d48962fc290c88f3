"""What a dispatcher reads twice a second: the state of its mailings, and of what halts sending."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from shared.db.policy import EFFECTIVE_LIMITS, JOIN_POLICIES, STOPPED, EffectiveLimits
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import Window, make_window
from worker.runtime.clock import DatabaseClock
from worker.runtime.database import Database

MAILING_SNAPSHOTS = f"""
SELECT m.id, m.status, m.end_at, m.rate_limit, m.window_from, m.window_to, m.answer_round,
    ARRAY(SELECT b::text FROM budgets b WHERE mailing_id IN (0, m.id) ORDER BY mailing_id),
    {EFFECTIVE_LIMITS}
FROM mailings m {JOIN_POLICIES} WHERE m.id = ANY (%s)
"""  # noqa: S608 (constants)
HALTS = f"SELECT throttled_until, {STOPPED} FROM provider_state"  # noqa: S608


class MailingSnapshot(NamedTuple):
    """The parts of a mailing that may change while its batches are leased.

    `budgets` are the rows of the budgets that apply, as texts to compare.
    """

    status: str
    end_at: datetime
    rate_limit: int | None
    window: Window | None
    answer_round: int = 0
    limits: EffectiveLimits | None = None  # None: not read yet
    budgets: list[str] | None = None  # None: not read yet


class Watch(NamedTuple):
    """What a dispatcher looks at twice a second.

    `stopped`: the emergency stop is on, so nothing may be sent.
    """

    mailings: dict[int, MailingSnapshot]
    throttled_until: datetime | None
    stopped: bool


def fetch_watch(db: Database, clock: DatabaseClock, mailing_ids: Collection[int]) -> Watch:
    """Return the present state of mailings, and what halts all sending."""
    with db.transaction() as cursor:
        clock.read(cursor)
        cursor.execute(MAILING_SNAPSHOTS, (list(mailing_ids),))
        snapshots = {
            id_: MailingSnapshot(
                status,
                end_at,
                rate_limit,
                make_window(start, end),
                answer_round,
                EffectiveLimits(*limits),
                budgets,
            )
            for id_, status, end_at, rate_limit, start, end, answer_round, budgets, *limits in (
                cursor.fetchall()
            )
        }
        cursor.execute(HALTS)
        return Watch(snapshots, *fetch_one_row(cursor))
