"""What rules would do to the mailings that are scheduled, before the rules are in force."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select

from api.db import db, session_cursor
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS, audience_parameters
from shared.db.models import Mailing
from shared.db.rows import fetch_one_row
from shared.domain.statuses import MailingStatus

MAX_MAILINGS = 10
# Counting stops above the limit: more is not needed to know that it is exceeded.
COUNT_CLIENTS = f"""
SELECT count(*) FROM (SELECT FROM clients WHERE {AUDIENCE_CONDITION} LIMIT %(limit)s) AS chosen
"""  # noqa: S608 (AUDIENCE_CONDITION is a constant)


class MailingEffect(NamedTuple):
    """A scheduled mailing, its clients as they are now (`limit` + 1: or more), and its limit."""

    mailing: Mailing
    clients: int
    limit: int

    @property
    def exceeded(self) -> bool:
        return self.clients > self.limit


def find_exceeding_mailings(max_audience: int | None) -> Sequence[MailingEffect]:
    """Return the next scheduled mailings, each with whether it would exceed its limit.

    Those that no limit applies to are left out.
    """
    query = (
        select(Mailing)
        .where(Mailing.status == MailingStatus.SCHEDULED, Mailing.deleted_at.is_(None))
        .order_by(Mailing.start_at, Mailing.id)
        .limit(MAX_MAILINGS)
    )
    effects = []
    for mailing in db.session.scalars(query):
        limits = [each for each in (mailing.max_audience, max_audience) if each is not None]
        if not limits:
            continue
        audience = audience_parameters(*(getattr(mailing, name) for name in FILTER_COLUMNS))
        cursor = session_cursor()
        cursor.execute(COUNT_CLIENTS, audience | {"limit": min(limits) + 1})
        (clients,) = fetch_one_row(cursor)
        effects.append(MailingEffect(mailing, clients, min(limits)))
    return effects
