"""What rules would do to the mailings that are scheduled, before the rules are in force."""

from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import select

from api.budgets import BudgetRoom, find_use, list_rooms
from api.db import database_now, db, session_cursor
from api.schemas.limits import Limits
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS, audience_parameters
from shared.db.budgets import BudgetUse
from shared.db.models import Mailing
from shared.db.rows import fetch_one_row
from shared.domain.segments import count_segments
from shared.domain.statuses import MailingStatus
from shared.domain.templates import compile_template
from shared.domain.text_costs import text_without_values

MAX_MAILINGS = 10
# Counting stops where a rule is decided.
COUNT_CLIENTS = f"""
SELECT count(*) FROM (SELECT FROM clients WHERE {AUDIENCE_CONDITION} LIMIT %(limit)s) AS chosen
"""  # noqa: S608 (AUDIENCE_CONDITION is a constant)


# What the mailings before use up of the policy's budget, by period and its first day.
Planned = Counter[tuple[str, date]]


class MailingEffect(NamedTuple):
    """What rules would do to a scheduled mailing, with its clients as they are now.

    `clients` is None if no rule depends on their number; with `more` there are more of them.
    `shortage` is the budget that would not have enough for it, after the mailings before it.
    """

    mailing: Mailing
    clients: int | None
    more: bool
    max_audience: int | None
    exceeds_audience: bool
    stop_when: dict[str, Any] | None
    never_judged: bool  # it has fewer clients than `stop_when` needs answers
    shortage: BudgetRoom | None

    @property
    def pauses(self) -> bool:
        return self.exceeds_audience or self.shortage is not None


def find_effects(policy: Limits, use: BudgetUse | None) -> list[MailingEffect]:
    """Return what a policy would do to the next scheduled mailings, by start.

    `use` is what would be used up of its budget by now. Of a text with placeholders the segments
    are those without values, at least.
    """
    query = (
        select(Mailing)
        .where(Mailing.status == MailingStatus.SCHEDULED, Mailing.deleted_at.is_(None))
        .order_by(Mailing.start_at, Mailing.id)
        .limit(MAX_MAILINGS)
    )
    now = database_now()
    planned: Planned = Counter()
    return [_find_effect(each, policy, use, planned, now) for each in db.session.scalars(query)]


def _find_effect(
    mailing: Mailing,
    policy: Limits,
    use: BudgetUse | None,
    planned: Planned,
    now: datetime,
) -> MailingEffect:
    limits = [each for each in (mailing.max_audience, policy.max_audience) if each is not None]
    limit = min(limits, default=None)
    stop_when = mailing.stop_when or policy.stop_when
    rooms = list(_list_rooms(mailing, use, planned, now))
    segments = count_segments(text_without_values(compile_template(mailing.text)))
    needed = [
        *([] if limit is None else [limit + 1]),
        *([] if stop_when is None else [stop_when["min_answers"]]),
        *(room.left // max(1, segments) + 1 for room in rooms),
    ]
    clients = _count_clients(mailing, max(needed)) if needed else None
    exceeds = limit is not None and clients is not None and clients > limit
    shortage = None
    if clients is not None and not exceeds:
        short = [room for room in rooms if clients * segments > room.left]
        shortage = min(short, key=lambda room: room.left, default=None)
        used = min((clients * segments, *(room.left for room in rooms)))
        planned.update({(r.period, r.begins): used for r in rooms if r.of_policy})
    return MailingEffect(
        mailing,
        clients,
        bool(needed) and clients == max(needed),
        limit,
        exceeds,
        stop_when,
        never_judged=stop_when is not None
        and clients is not None
        and clients < stop_when["min_answers"],
        shortage=shortage,
    )


def _list_rooms(
    mailing: Mailing, use: BudgetUse | None, planned: Planned, now: datetime
) -> Iterator[BudgetRoom]:
    """Yield what the budgets of the mailing and of the policy have left for it."""
    at = max(mailing.launch_at, now)
    own = find_use(mailing.id) if mailing.budget else None
    yield from list_rooms(own, at, now, of_policy=False)
    for room in list_rooms(use, at, now, of_policy=True):
        left = room.left - planned[room.period, room.begins]
        yield room._replace(left=max(0, left))


def _count_clients(mailing: Mailing, most: int) -> int:
    audience = audience_parameters(*(getattr(mailing, name) for name in FILTER_COLUMNS))
    cursor = session_cursor()
    cursor.execute(COUNT_CLIENTS, audience | {"limit": most})
    (clients,) = fetch_one_row(cursor)
    return int(clients)
