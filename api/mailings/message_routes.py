"""REST routes of messages and statistics."""

from typing import Any

from flask import Blueprint, Response

from api.cursors import MAX_ID, Page, encode_cursor
from api.http.csv_response import separator_of, stream_csv
from api.http.pagination import build_page
from api.mailings import daily_spending, message_export, messages, statistics
from api.mailings.day_schemas import DaysAnswer, DaysQuery, present_day
from api.mailings.message_schemas import (
    EXPORT_EXAMPLE,
    AttemptAnswer,
    Counts,
    MailingStatistics,
    MessageAnswer,
    MessageCsvQuery,
    MessageDetails,
    MessagePage,
    MessageQuery,
    Statistics,
    Totals,
    present_mailing_statistics,
    present_mailing_totals,
)
from api.mailings.schemas import MailingQuery
from api.mailings.service import MailingSearch, find_mailing
from api.openapi.operation import operation
from api.schemas.base import PageQuery
from api.schemas.spending import present_counted

blueprint = Blueprint("messages", __name__)


@blueprint.get("/mailings/<id:mailing_id>/messages")
@operation(
    "messages",
    response=MessagePage,
    description="A page of messages.",
    query=MessageQuery,
    problems=(404,),
)
def list_messages(mailing_id: int, query: MessageQuery) -> dict[str, Any]:
    """List a mailing's messages

    Also those of a deleted mailing, until they are old enough to be dropped. By id. With a filter,
    a page may hold fewer than `limit` while there are more: continue until `next_cursor` is
    null.
    """
    find_mailing(mailing_id, deleted=True)
    page = Page(query.cursor, query.limit, query.order == "desc")
    return _present_page(
        messages.list_mailing_messages(
            mailing_id, query.status or (), page, since=query.sent_since, until=query.sent_until
        )
    )


@blueprint.get("/mailings/<id:mailing_id>/messages.csv")
@operation(
    "messages",
    response=None,
    description="The messages.",
    query=MessageCsvQuery,
    csv=EXPORT_EXAMPLE,
    problems=(404,),
)
def export_messages(mailing_id: int, query: MessageCsvQuery) -> Response:
    """Download a mailing's messages as CSV

    Ordered by id; also those of a deleted mailing. The phone is the client's present one, and empty
    for a deleted client.
    """
    pages = message_export.export_messages(
        mailing_id, query.status or (), separator=separator_of(query.excel)
    )
    name = f"mailing-{mailing_id}-messages.csv"
    return stream_csv(name, lambda: (message_export.EXPORT_COLUMNS, pages), query.excel)


@blueprint.get("/clients/<id:client_id>/messages")
@operation(
    "clients",
    response=MessagePage,
    description="A page of messages.",
    query=PageQuery,
    problems=(404,),
)
def list_client_messages(client_id: int, query: PageQuery) -> dict[str, Any]:
    """List a client's messages

    That of the newest mailing first; also those of deleted mailings, and of a deleted client. A
    page may hold fewer than `limit` while there are more: continue until `next_cursor` is null.
    """
    return _present_page(
        messages.list_client_messages(client_id, query.cursor or MAX_ID, query.limit)
    )


@blueprint.get("/messages/<id:message_id>")
@operation("messages", response=MessageDetails, description="The message.", problems=(404,))
def get_message(message_id: int) -> dict[str, Any]:
    """Get a message

    Also one of a deleted mailing. With every attempt in `attempt_log`. Of an accepted attempt only
    the time is stored.
    """
    message, attempts = messages.get_message(message_id)
    log = [AttemptAnswer.present(attempt) for attempt in attempts]
    return MessageDetails.present(message, attempt_log=log)


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
    return present_mailing_statistics(*statistics.read_mailing_statistics(mailing_id))


@blueprint.get("/statistics")
@operation("statistics", response=Statistics, description="The statistics.", query=MailingQuery)
def get_statistics(query: MailingQuery) -> dict[str, Any]:
    """Get statistics over all mailings

    `totals` sum up the messages of all mailings; those of deleted ones too, until retention drops
    them. `mailings` counts the others, of which `items` are a page, by id. The filters choose the
    items, and leave the totals as they are.
    """
    found = statistics.read_statistics(query.page(), MailingSearch.from_query(query))
    return {
        "totals": Totals.present(
            found.totals,
            mailings=found.mailings,
            counts=Counts.present(found.totals),
            opted_out=found.totals["cancelled_opted_out"],
            **present_counted(found.totals),
        ),
        **build_page(found.rows, query.limit, present_mailing_totals, lambda row: int(row["id"])),
    }


@blueprint.get("/statistics/days")
@operation("statistics", response=DaysAnswer, description="The days, in order.", query=DaysQuery)
def get_days(query: DaysQuery) -> dict[str, Any]:
    """Get what was sent day by day

    Messages and SMS segments of each day from `since` to `until`, both included, by the time zone
    of the daily report (`REPORT_TIMEZONE`). A message in doubt that turns out to be accepted
    moves from `in_doubt` to `sent`: on the day of its acceptance the former decreases.
    """
    days = daily_spending.read_days(query.since, query.until, query.mailing_id)
    return {"items": [present_day(day) for day in days]}


def _present_page(page: messages.MessageRows) -> dict[str, Any]:
    return {
        "items": [MessageAnswer.present(row) for row in page.rows],
        "next_cursor": None if page.last_id is None else encode_cursor(page.last_id),
    }
