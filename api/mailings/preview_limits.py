"""Which limits of a mailing and of the policy would pause a mailing that is previewed."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from api.budgets import draft_use, find_use, list_rooms
from api.db import session_cursor
from api.schemas.limits import Limits
from shared.db.budgets import POLICY_BUDGET
from shared.db.policy import read_policy

PERIODS = {"day": "for that day", "month": "for that month"}


class ExceededLimit(NamedTuple):
    """A limit that would pause the mailing, and what the mailing needs.

    `permitted` and `needed` are clients, or for a budget (`period` is "day" or "month") segments.
    """

    of_policy: bool
    permitted: int
    needed: int
    period: str | None = None

    @property
    def code(self) -> str:
        """The code of the preview's warning."""
        return "audience_limit_exceeded" if self.period is None else "budget_exceeded"

    @property
    def detail(self) -> str:
        """What the preview's warning says."""
        whose = "policy" if self.of_policy else "mailing"
        if self.period is None:
            return (
                f"The mailing would reach {self.needed} clients, and the limit of the {whose} is "
                f"{self.permitted}: it would pause and send nothing."
            )
        return (
            f"The mailing needs {self.needed} SMS segments, and the budget of the {whose} has "
            f"{self.permitted} left {PERIODS[self.period]}: it would pause when they are used up."
        )


def find_exceeded_limits(
    own: Limits, audience: int, segments: int, at: datetime, now: datetime, launched_id: int | None
) -> Iterator[ExceededLimit]:
    """Yield the limits that a mailing would exceed if it were launched at an instant.

    Of a mailing that was launched (`launched_id`), `segments` are those of what is left to send.
    """
    policy = read_policy(session_cursor())
    limits = [
        (limit, of_policy)
        for limit, of_policy in ((own.max_audience, False), (policy.max_audience, True))
        if limit is not None and launched_id is None
    ]
    if limits and audience > (smallest := min(limits))[0]:
        yield ExceededLimit(smallest[1], smallest[0], audience)
    own_use, policy_use = draft_use(launched_id, own.budget), find_use(POLICY_BUDGET)
    for room in (
        *list_rooms(own_use, at, now, of_policy=False),
        *list_rooms(policy_use, at, now, of_policy=True),
    ):
        if segments > room.left:
            yield ExceededLimit(room.of_policy, room.left, segments, room.period)
