"""Statistics: one statement over batches, never over messages; a settled mailing's are frozen."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint
from sqlalchemy import text

from api.db import fetch_all, session_cursor, use_one_snapshot
from api.http.pagination import build_page
from api.mailings.message_schemas import MailingStatistics, Statistics, present_counts
from api.mailings.routes import find_mailing
from api.mailings.schemas import MailingQuery
from api.openapi.operation import operation
from shared.db.mailing_counts import read_mailing_counts
from shared.db.models import Mailing
from shared.domain.statuses import MailingStatus, MessageStatus

blueprint = Blueprint("statistics", __name__)

# The sums are read only where nothing is frozen yet: for a settled mailing, no batch is visited.
COUNTED = """
SELECT g.id, g.name, g.status, g.audience, b.pending,
    CASE WHEN g.settled THEN g.sent ELSE b.sent END AS sent,
    CASE WHEN g.settled THEN g.failed ELSE b.failed END AS failed,
    CASE WHEN g.settled THEN g.expired ELSE b.expired END AS expired,
    CASE WHEN g.settled THEN g.cancelled ELSE b.cancelled END AS cancelled,
    CASE WHEN g.settled THEN g.in_doubt ELSE b.in_doubt END AS in_doubt
FROM mailings g CROSS JOIN LATERAL (
    SELECT coalesce(sum(pending), 0)::bigint AS pending, coalesce(sum(sent), 0)::bigint AS sent,
        coalesce(sum(failed), 0)::bigint AS failed, coalesce(sum(expired), 0)::bigint AS expired,
        coalesce(sum(cancelled), 0)::bigint AS cancelled,
        coalesce(sum(in_doubt), 0)::bigint AS in_doubt
    FROM batches WHERE mailing_id = g.id AND NOT g.settled
) b
WHERE g.deleted_at IS NULL
"""
PAGE = text(f"""
{COUNTED} AND g.id > :after
    AND (CAST(:status AS text) IS NULL OR g.status = CAST(:status AS mailing_status))
ORDER BY g.id LIMIT :n
""")

BY_MAILING_STATUS = text(f"""
SELECT status, count(*) AS mailings, sum(audience)::bigint AS audience,
    sum(pending)::bigint AS pending, sum(sent)::bigint AS sent, sum(failed)::bigint AS failed,
    sum(expired)::bigint AS expired, sum(cancelled)::bigint AS cancelled,
    sum(in_doubt)::bigint AS in_doubt
FROM ({COUNTED}) counted GROUP BY status
""")  # noqa: S608 (constants)


@blueprint.get("/mailings/<id:mailing_id>/statistics")
@operation(
    "statistics",
    response=MailingStatistics,
    description="The mailing's statistics.",
    problems=(404,),
)
def get_mailing_statistics(mailing_id: int) -> dict[str, Any]:
    """Get a mailing's statistics

    At every instant, the counts add up to the audience.
    """
    use_one_snapshot()
    mailing = find_mailing(mailing_id)
    totals = _totals(mailing)
    return {
        "mailing_id": mailing.id,
        "status": mailing.status,
        "audience": mailing.audience,
        "audience_complete": mailing.audience_complete,
        "counts": present_counts(totals),
        "in_doubt": totals["in_doubt"],
        **{name: totals[name] for name in ("in_progress", "due", "retrying", "waiting")},
    }


@blueprint.get("/statistics")
@operation("statistics", response=Statistics, description="The statistics.", query=MailingQuery)
def get_statistics(query: MailingQuery) -> dict[str, Any]:
    """Get statistics over all mailings

    `totals` cover every mailing that is not deleted; `items` are a page of them, by id. The filter
    `status` is that of the mailings, and chooses the items only.
    """
    use_one_snapshot()
    groups = fetch_all(BY_MAILING_STATUS)
    summed = {
        name: sum(group[name] for group in groups)
        for name in ("audience", "in_doubt", *MessageStatus)
    }
    mailings = {str(status): 0 for status in MailingStatus}
    mailings |= {group["status"]: group["mailings"] for group in groups}
    found = fetch_all(PAGE, after=query.cursor, status=query.status, n=query.limit + 1)
    return {
        "totals": {"mailings": mailings, **_counted(summed)},
        **build_page(found, query.limit, _present, lambda row: int(row["id"])),
    }


def _totals(mailing: Mailing) -> dict[str, int]:
    if mailing.settled:
        frozen = dict.fromkeys(("pending", "in_progress", "due", "retrying", "waiting"), 0)
        kept = ("sent", "failed", "expired", "cancelled", "in_doubt")
        return frozen | {name: getattr(mailing, name) for name in kept}
    return read_mailing_counts(session_cursor(), mailing.id)._asdict()


def _present(row: Mapping[str, Any]) -> dict[str, Any]:
    named = {"mailing_id": row["id"], "name": row["name"], "status": row["status"]}
    return named | _counted(row)


def _counted(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "audience": row["audience"],
        "counts": present_counts(row),
        "in_doubt": row["in_doubt"],
    }
