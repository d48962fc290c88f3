"""Statistics: sums over batches, never over messages; a settled mailing's are on its own row."""

from typing import Any, NamedTuple

from sqlalchemy import text

from api.cursors import Page
from api.db import fetch_all, session_cursor, use_one_snapshot
from api.mailings.service import MailingSearch, find_mailing, list_mailings
from shared.db.mailing_counts import COUNTS_JOIN, MailingCounts, read_mailing_counts
from shared.db.models import Mailing
from shared.db.refusals import Refusal, read_refusals
from shared.domain.statuses import MailingStatus, MessageStatus

SUMMED = (
    "audience",
    "in_doubt",
    "cancelled_opted_out",
    "sent_segments",
    "in_doubt_segments",
    *MessageStatus,
)

MAILINGS_WITH_COUNTS = f"""
SELECT m.id, m.name, m.status, m.audience, m.deleted_at, counts.* FROM mailings m {COUNTS_JOIN}
"""  # noqa: S608 (constants, here and below)
OF_MAILINGS = text(f"{MAILINGS_WITH_COUNTS} WHERE m.id = ANY (:ids)")
# What was sent stays in the sums when its mailing is deleted, until retention drops its messages.
BY_MAILING_STATUS = text(f"""
SELECT status, count(*) FILTER (WHERE deleted_at IS NULL) AS mailings,
    {", ".join(f"sum({name})::bigint AS {name}" for name in SUMMED)}
FROM ({MAILINGS_WITH_COUNTS}) counted GROUP BY status
""")  # noqa: S608


class Statistics(NamedTuple):
    """Mailings by status, the sums of their counts, and a page of mailings with their counts."""

    mailings: dict[str, int]
    totals: dict[str, int]
    rows: list[dict[str, Any]]


class MailingFigures(NamedTuple):
    """A mailing, its counts, which add up to its audience, and its most frequent refusals."""

    mailing: Mailing
    counts: MailingCounts
    refusals: list[Refusal]


def read_mailing_statistics(mailing_id: int) -> MailingFigures:
    """Read one mailing's figures."""
    use_one_snapshot()
    mailing, cursor = find_mailing(mailing_id), session_cursor()
    counts = read_mailing_counts(cursor, mailing_id)
    return MailingFigures(mailing, counts, read_refusals(cursor, [mailing_id])[mailing_id])


def read_statistics(page: Page, search: MailingSearch) -> Statistics:
    """Read totals over all mailings, and a page of the mailings that match `search`."""
    use_one_snapshot()
    groups = fetch_all(BY_MAILING_STATUS)
    mailings = {str(status): 0 for status in MailingStatus}
    ids = [mailing.id for mailing in list_mailings(page, search)]
    rows = {row["id"]: row for row in fetch_all(OF_MAILINGS, ids=ids)}
    return Statistics(
        mailings | {group["status"]: group["mailings"] for group in groups},
        {str(name): sum(group[name] for group in groups) for name in SUMMED},
        [rows[mailing_id] for mailing_id in ids],
    )
