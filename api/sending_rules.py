"""Checks of limits that do not depend on what has them, the policy or a mailing."""

from flask import current_app
from redis.exceptions import RedisError

from api.enqueue import job_queues
from api.errors import Conflict, FieldError, InvalidFields, Unavailable
from api.schemas.limits import Budget
from shared.domain.error_texts import error_text
from shared.fleet_status import count_old_workers


def check_budget(budget: Budget | None) -> None:
    """Raise InvalidFields if a budget is an amount of money and segments have no price."""
    limits = {} if budget is None else {"day": budget.day, "month": budget.month}
    errors = [
        FieldError(
            error_text(
                "needs the price of a segment (SEGMENT_PRICE), which is not set; give segments "
                "instead"
            ),
            "segment_price_missing",
            f"/budget/{period}/amount",
        )
        for period, limit in limits.items()
        if limit is not None and limit.amount is not None
    ]
    if errors and current_app.config["SEGMENT_PRICE"] is None:
        raise InvalidFields(*errors)


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
