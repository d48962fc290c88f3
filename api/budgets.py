"""Budgets of the policy and of mailings: set them, and read what is used up.

The API converts amounts of money to segments by its price, so workers need neither the price nor
the time zone of the days.
"""

from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import current_app

from api.db import session_cursor
from api.errors import Conflict
from shared.db.budgets import (
    POLICY_BUDGET,
    BudgetUse,
    PeriodUse,
    convert_limit,
    count_spent,
    read_budgets,
    store_budget,
)
from shared.domain.error_texts import error_text
from shared.domain.segments import count_segments
from shared.domain.templates import compile_template
from shared.domain.text_costs import text_without_values

USED_UP = {
    ("policy", "day"): error_text(
        "The policy's budget for today is used up: raise it, or wait until tomorrow."
    ),
    ("policy", "month"): error_text(
        "The policy's budget for this month is used up: raise it, or wait for the next month."
    ),
    ("mailing", "day"): error_text(
        "The mailing's budget for today is used up: raise it, or wait until tomorrow."
    ),
    ("mailing", "month"): error_text(
        "The mailing's budget for this month is used up: raise it, or wait for the next month."
    ),
}


def set_budget(mailing_id: int, budget: dict[str, Any] | None, *, unused: bool = False) -> None:
    """Set or remove the budget of a mailing, or of the policy (POLICY_BUDGET).

    `unused`: the mailing is new. Call it after batches are locked, and late: recording waits.
    """
    store_budget(
        session_cursor(),
        mailing_id,
        budget,
        price=current_app.config["SEGMENT_PRICE"],
        timezone=current_app.config["REPORT_TIMEZONE"],
        unused=unused,
    )


def find_use(mailing_id: int) -> BudgetUse | None:
    """Return what is used up of the budget of a mailing or of the policy; None if it has none."""
    return next(iter(read_budgets(session_cursor(), mailing_id)), None)


class BudgetRoom(NamedTuple):
    """The segments that a budget has left in the period of an instant."""

    of_policy: bool
    period: str  # "day" or "month"
    begins: date  # the first day of the period
    left: int


def draft_use(mailing_id: int | None, budget: dict[str, Any] | None) -> BudgetUse | None:
    """Return what would be used up of a budget that is not stored; None for no budget.

    `mailing_id` is None for a new mailing, which has used up nothing.
    """
    if budget is None:
        return None
    price, timezone = current_app.config["SEGMENT_PRICE"], current_app.config["REPORT_TIMEZONE"]
    day, month = (
        (0, 0) if mailing_id is None else count_spent(session_cursor(), mailing_id, timezone)
    )
    return BudgetUse(
        mailing_id or POLICY_BUDGET,
        PeriodUse(convert_limit(budget.get("day"), price), day, 0),
        PeriodUse(convert_limit(budget.get("month"), price), month, 0),
    )


def list_rooms(
    use: BudgetUse | None, at: datetime, now: datetime, *, of_policy: bool
) -> Iterator[BudgetRoom]:
    """Yield what a budget has left for what is sent at an instant; what is reserved is not left."""
    if use is None:
        return
    zone = ZoneInfo(current_app.config["REPORT_TIMEZONE"])
    day, today = at.astimezone(zone).date(), now.astimezone(zone).date()
    month, this_month = day.replace(day=1), today.replace(day=1)
    for name, period, begins, is_present in (
        ("day", use.day, day, day == today),
        ("month", use.month, month, month == this_month),
    ):
        if period.limit is not None:
            left = period.left if is_present else period.limit
            yield BudgetRoom(of_policy, name, begins, left or 0)


def check_budget_left(mailing_id: int, text: str) -> None:
    """Raise Conflict if a budget that applies to the mailing has no room for its next message.

    The segments of a text with placeholders are those without values, at least.
    """
    segments = max(1, count_segments(text_without_values(compile_template(text))))
    for use in read_budgets(session_cursor(), POLICY_BUDGET, mailing_id):
        if use.lacks(segments):
            period = "day" if use.day.lacks(segments) else "month"
            whose = "policy" if use.mailing_id == POLICY_BUDGET else "mailing"
            raise Conflict(USED_UP[whose, period], "budget_used_up")
