"""Budgets of the policy and of mailings: set them, and read what is used up.

The API converts amounts of money to segments by its price, so workers need neither the price nor
the time zone of the days.
"""

from typing import Any

from flask import current_app

from api.db import session_cursor
from api.errors import Conflict
from shared.db.budgets import POLICY_BUDGET, BudgetUse, read_budgets, store_budget
from shared.domain.error_texts import error_text

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


def check_budget_left(mailing_id: int) -> None:
    """Raise Conflict if a budget that applies to the mailing has nothing left."""
    for use in read_budgets(session_cursor(), POLICY_BUDGET, mailing_id):
        if use.left == 0:
            period = "day" if use.day.left == 0 else "month"
            whose = "policy" if use.mailing_id == POLICY_BUDGET else "mailing"
            raise Conflict(USED_UP[whose, period], "budget_used_up")
