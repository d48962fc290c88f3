"""Budgets: what may be used up in a day and in a month, by all mailings together and by one.

A message is charged once, with the segments it has when it is first sent or in doubt, to the day
of that instant. A batch reserves segments when it is claimed. What is charged in a batch is taken
from its reservation in the same transaction, so that spent and reserved segments together never
exceed a budget.

Locks: budgets by id after messages, then minutes, then days of budgets.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from psycopg2.extensions import cursor as Cursor

from shared.db.prepared_statements import PreparedStatement, PreparingConnection
from shared.db.rows import fetch_one_row

# The budget of the policy, which counts what all mailings send.
POLICY_BUDGET = 0

# No row of `minutes` is added meanwhile, so that nothing is missed and nothing counted twice.
LOCK_MINUTES = "LOCK TABLE minutes IN SHARE ROW EXCLUSIVE MODE"
STORE = """
INSERT INTO budgets (mailing_id, day_limit, month_limit, timezone) VALUES (%s, %s, %s, %s)
ON CONFLICT (mailing_id) DO UPDATE SET day_limit = excluded.day_limit,
    month_limit = excluded.month_limit, timezone = excluded.timezone
"""
REMOVE = "DELETE FROM budgets WHERE mailing_id = %s"
REMOVE_DAYS = "DELETE FROM budget_days WHERE mailing_id = %s"
# Versions before the schema 0016 counted messages and no segments: each has one at least.
COUNT_DAYS = """
INSERT INTO budget_days (mailing_id, day, shard, segments)
SELECT b.mailing_id, (m.minute AT TIME ZONE b.timezone)::date, 0,
    sum(greatest(m.sent_segments, m.count) + m.in_doubt_segments)
FROM budgets b JOIN minutes m ON m.status = 'sent'
    AND m.minute >= date_trunc('month', now() AT TIME ZONE b.timezone) AT TIME ZONE b.timezone
    AND CASE b.mailing_id WHEN 0 THEN m.mailing_id > 0 ELSE m.mailing_id = b.mailing_id END
WHERE b.mailing_id = %s GROUP BY 1, 2
"""
COUNT_SPENT = """
SELECT coalesce(sum(n) FILTER (WHERE at >= date_trunc('day', today)), 0)::bigint,
    coalesce(sum(n), 0)::bigint
FROM (SELECT now() AT TIME ZONE %(timezone)s) AS present (today) LEFT JOIN LATERAL (
    SELECT minute AT TIME ZONE %(timezone)s AS at, sent_segments + in_doubt_segments AS n
    FROM minutes WHERE status = 'sent'
        AND minute >= date_trunc('month', today) AT TIME ZONE %(timezone)s
        AND CASE %(mailing)s WHEN 0 THEN mailing_id > 0 ELSE mailing_id = %(mailing)s END
) AS counted ON true
"""
# Each connection adds to rows of its own, as in `minutes`.
ADD_DAYS = """
INSERT INTO budget_days AS d (mailing_id, day, shard, segments)
SELECT b.mailing_id, (t.minute AT TIME ZONE b.timezone)::date, pg_backend_pid() %% 16, sum(t.n)
FROM unnest(%s::bigint[], %s::timestamptz[], %s::int[]) AS t (mailing_id, minute, n)
JOIN budgets b ON b.mailing_id IN (0, t.mailing_id)
GROUP BY 1, 2 HAVING sum(t.n) <> 0 ORDER BY 1, 2
ON CONFLICT (mailing_id, day, shard) DO UPDATE SET segments = d.segments + excluded.segments
"""
LOCK = PreparedStatement(
    "lock_budgets",
    "SELECT FROM budgets WHERE mailing_id = ANY (%(ids)s::bigint[]) ORDER BY mailing_id FOR UPDATE",
)
# A batch without pending messages and without a lease needs its reservation no more. What a dead
# worker has reserved for a mailing that is not running is kept until the mailing runs or ends, and
# charged then.
READ = """
SELECT b.mailing_id, b.day_limit, b.month_limit, spent.day, spent.month, reserved.segments,
    reserved.kept
FROM budgets b
CROSS JOIN LATERAL (SELECT (clock_timestamp() AT TIME ZONE b.timezone)::date AS day) AS today
CROSS JOIN LATERAL (
    SELECT coalesce(sum(segments) FILTER (WHERE d.day = today.day), 0)::bigint AS day,
        coalesce(sum(segments), 0)::bigint AS month
    FROM budget_days d WHERE d.mailing_id = b.mailing_id
        AND d.day >= date_trunc('month', today.day)
        AND d.day < date_trunc('month', today.day) + interval '1 month'
) AS spent
CROSS JOIN LATERAL (
    SELECT coalesce(sum(r.reserved), 0)::bigint AS segments,
        coalesce(sum(r.reserved) FILTER (
            WHERE r.leased_until <= now() AND m.status <> 'running'), 0)::bigint AS kept
    FROM batches r JOIN mailings m ON m.id = r.mailing_id
    WHERE r.reserved > 0 AND (b.mailing_id = 0 OR r.mailing_id = b.mailing_id)
        AND (r.pending > 0 OR r.leased_until > now())
) AS reserved
WHERE b.mailing_id = ANY (%(ids)s::bigint[]) ORDER BY b.mailing_id
"""
# Each claim reads them: planning takes longer than reading.
READ_PREPARED = PreparedStatement("read_budgets", READ)
HAS_RESERVED = """
SELECT EXISTS (SELECT FROM batches WHERE mailing_id = %s AND reserved > 0
    AND (pending > 0 OR leased_until > now()))
"""


class PeriodUse(NamedTuple):
    """What a budget has of one period, in segments. `limit` is None if it has none.

    `kept` is the part of `reserved` that is not released before a person resumes or ends a mailing.
    """

    limit: int | None
    spent: int
    reserved: int
    kept: int = 0

    @property
    def left(self) -> int | None:
        """What can still be reserved; None if there is no limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)

    def lacks(self, segments: int) -> bool:
        """Return whether so many segments do not fit, even if what may be released is released."""
        return self.limit is not None and self.spent + self.kept + segments > self.limit


class BudgetUse(NamedTuple):
    """The use of the budget of a mailing, or of the policy (POLICY_BUDGET), now."""

    mailing_id: int
    day: PeriodUse
    month: PeriodUse

    @property
    def left(self) -> int | None:
        """What can still be reserved in both periods; None if neither has a limit."""
        return min((p.left for p in (self.day, self.month) if p.left is not None), default=None)

    def lacks(self, segments: int) -> bool:
        """Return whether so many segments do not fit into the day or into the month."""
        return self.day.lacks(segments) or self.month.lacks(segments)


def store_budget(
    cursor: Cursor,
    mailing_id: int,
    budget: dict[str, Any] | None,
    *,
    price: Decimal | None,
    timezone: str,
    unused: bool = False,
) -> None:
    """Set or remove a budget, and count what was spent in the present month.

    `budget` is as the API stores it: {"day": {"segments": 5000}, "month": {"amount": "2500.00"}}.
    An amount becomes the number of segments that it pays for at `price`. `unused`: nothing can have
    been spent yet, as the mailing is new.
    """
    if budget is None:
        cursor.execute(REMOVE, (mailing_id,))
        if cursor.rowcount:
            cursor.execute(LOCK_MINUTES)
            cursor.execute(REMOVE_DAYS, (mailing_id,))
        return
    day, month = (convert_limit(budget.get(period), price) for period in ("day", "month"))
    cursor.execute(STORE, (mailing_id, day, month, timezone))
    if unused:
        return
    cursor.execute(LOCK_MINUTES)
    cursor.execute(REMOVE_DAYS, (mailing_id,))
    cursor.execute(COUNT_DAYS, (mailing_id,))


def convert_limit(limit: Mapping[str, Any] | None, price: Decimal | None) -> int | None:
    """Return the segments that a limit permits, of an amount those that it pays for at `price`."""
    if limit is None:
        return None
    if limit.get("segments") is not None:
        return int(limit["segments"])
    if price is None:
        raise ValueError("an amount needs the price of a segment")
    return int(Decimal(limit["amount"]) // price)


def charge_budgets(cursor: Cursor, changes: Counter[tuple[int, datetime]]) -> None:
    """Add segments that were charged, by mailing and instant, to the days of budgets."""
    rows = [(mailing_id, at, n) for (mailing_id, at), n in changes.items() if n and mailing_id]
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        cursor.execute(ADD_DAYS, columns)


def lock_budgets(cursor: Cursor, mailing_ids: Iterable[int]) -> None:
    """Lock the budgets that apply to these mailings, until the end of the transaction."""
    LOCK.run(cursor, {"ids": [POLICY_BUDGET, *mailing_ids]})


def read_budgets(cursor: Cursor, *mailing_ids: int) -> list[BudgetUse]:
    """Return the use of these budgets, as far as they exist, by id."""
    values = {"ids": list(mailing_ids)}
    if isinstance(cursor.connection, PreparingConnection):
        READ_PREPARED.run(cursor, values)
    else:
        cursor.execute(READ, values)
    return [
        BudgetUse(
            id_,
            PeriodUse(day_limit, day, reserved, kept),
            PeriodUse(month_limit, month, reserved, kept),
        )
        for id_, day_limit, month_limit, day, month, reserved, kept in cursor.fetchall()
    ]


def count_spent(cursor: Cursor, mailing_id: int, timezone: str) -> tuple[int, int]:
    """Return the segments spent today and this month, also where there is no budget yet."""
    cursor.execute(COUNT_SPENT, {"mailing": mailing_id, "timezone": timezone})
    day, month = fetch_one_row(cursor)
    return day, month


def has_reservations(cursor: Cursor, mailing_id: int) -> bool:
    """Return whether batches of the mailing have reserved segments."""
    cursor.execute(HAS_RESERVED, (mailing_id,))
    row = cursor.fetchone()
    return row is not None and bool(row[0])
