"""Checks of limits that do not depend on what has them, the policy or a mailing."""

from decimal import Decimal

from flask import current_app
from redis.exceptions import RedisError

from api.enqueue import job_queues
from api.errors import Conflict, FieldError, InvalidFields, Unavailable
from api.schemas.limits import Budget
from shared.domain.error_texts import error_text
from shared.fleet_status import count_old_workers


def check_budget(budget: Budget | None) -> None:
    """Raise InvalidFields if an amount pays for no segment, or if segments have no price."""
    limits = {} if budget is None else {"day": budget.day, "month": budget.month}
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    errors = [
        _check_amount(limit.amount, price, f"/budget/{period}/amount")
        for period, limit in limits.items()
        if limit is not None and limit.amount is not None
    ]
    if found := [error for error in errors if error is not None]:
        raise InvalidFields(*found)


def _check_amount(amount: str, price: Decimal | None, pointer: str) -> FieldError | None:
    if price is None:
        problem = error_text(
            "needs the price of a segment (SEGMENT_PRICE), which is not set; give segments instead"
        )
        return FieldError(problem, "segment_price_missing", pointer)
    if Decimal(amount) < price:
        return FieldError(error_text("pays for no SMS segment"), "amount_too_small", pointer)
    return None


def require_new_workers() -> None:
    """Raise Conflict while workers run whose version would not follow the rules."""
    try:
        old = count_old_workers(job_queues().connection)
    except (RedisError, OSError):
        raise Unavailable(
            error_text(
                "Redis cannot be reached, so it is not known whether all workers follow the rules. "
                "Try again in a moment."
            ),
            code="workers_unknown",
        ) from None
    if old:
        raise Conflict(
            error_text(
                "%(count)s of the running workers are of an older version that would not follow "
                "this rule: update them first.",
                count=old,
            ),
            "workers_outdated",
        )
