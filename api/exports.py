"""CSV exports of clients and of a mailing's messages, for REST routes and admin views."""

from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response
from pydantic import Field
from sqlalchemy import select

from api.clients.schemas import ClientFilter
from api.clients.service import ClientSearch, iter_client_pages, list_attribute_names
from api.db import db
from api.http.csv_response import stream_csv
from api.mailings.messages import list_mailing_messages
from api.mailings.service import find_mailing
from api.openapi.operation import operation
from api.schemas.csv_query import CsvQuery
from shared.db.models import Client
from shared.domain.statuses import MessageStatus

blueprint = Blueprint("exports", __name__)

PAGE_ROWS = 5_000
CLIENT_COLUMNS = ("id", "phone", "operator_code", "tag", "timezone", "created_at", "updated_at")
MESSAGE_COLUMNS = (
    *("id", "client_id", "phone", "status", "reason", "attempts", "in_doubt"),
    *("created_at", "sent_at"),
)
CLIENTS_EXAMPLE = (
    ",".join(CLIENT_COLUMNS) + "\r\n1,79161234567,916,vip,Europe/Moscow,"
    "2026-12-01T09:00:00.000000Z,2026-12-01T09:00:00.000000Z\r\n"
)
MESSAGES_EXAMPLE = (
    ",".join(MESSAGE_COLUMNS) + "\r\n1,1,79161234567,sent,,0,false,"
    "2026-12-01T09:00:00.000000Z,2026-12-01T09:00:01.000000Z\r\n"
)


class ClientCsvQuery(ClientFilter, CsvQuery):
    """Which clients, and in which format."""


class MessageCsvQuery(CsvQuery):
    status: MessageStatus | None = Field(default=None, description="Messages in this status.")


@blueprint.get("/clients.csv")
@operation(
    "clients", response=None, description="The clients.", query=ClientCsvQuery, csv=CLIENTS_EXAMPLE
)
def export_clients(query: ClientCsvQuery) -> Response:
    """Download clients as CSV

    Ordered by id, the oldest first; the filters are those of the list. Each attribute of these
    clients is a column. The file can be imported again.
    A text that a spreadsheet would execute as a formula is prefixed with an apostrophe.
    """
    return clients_csv(ClientSearch.from_query(query), excel=query.excel)


@blueprint.get("/mailings/<id:mailing_id>/messages.csv")
@operation(
    "messages",
    response=None,
    description="The messages.",
    query=MessageCsvQuery,
    csv=MESSAGES_EXAMPLE,
    problems=(404,),
)
def export_messages(mailing_id: int, query: MessageCsvQuery) -> Response:
    """Download a mailing's messages as CSV

    Ordered by id. The phone is the client's present one, and empty for a deleted client.
    """
    return messages_csv(mailing_id, query.status, excel=query.excel)


def clients_csv(search: ClientSearch, *, excel: bool) -> Response:
    """Respond with the found clients as a CSV file, one column for each attribute among them."""
    names = list_attribute_names(search)
    pages = _client_rows(iter_client_pages(search, (*CLIENT_COLUMNS, "attributes")), names)
    return stream_csv("clients.csv", (*CLIENT_COLUMNS, *names), pages, excel)


def messages_csv(mailing_id: int, status: MessageStatus | None, *, excel: bool) -> Response:
    """Respond with a mailing's messages, or those in one status, as a CSV file."""
    find_mailing(mailing_id)
    pages = _message_rows(mailing_id, status)
    return stream_csv(f"mailing-{mailing_id}-messages.csv", MESSAGE_COLUMNS, pages, excel)


def _client_rows(
    pages: Iterator[Sequence[Any]], attribute_names: Sequence[str]
) -> Iterator[list[tuple[Any, ...]]]:
    for page in pages:
        yield [(*row[:-1], *(row.attributes.get(name) for name in attribute_names)) for row in page]


def _message_rows(mailing_id: int, status: MessageStatus | None) -> Iterator[list[tuple[Any, ...]]]:
    after: int | None = 0
    while after is not None:
        page = list_mailing_messages(mailing_id, status, after, PAGE_ROWS)
        if page.rows:
            yield _add_phones(page.rows)
        after = page.last_id


def _add_phones(messages: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    ids = [message["client_id"] for message in messages]
    found = db.session.execute(select(Client.id, Client.phone).where(Client.id.in_(ids)))
    phones = {row.id: row.phone for row in found}
    rows = (
        {
            **message,
            "phone": phones.get(message["client_id"]),
            "in_doubt": "true" if message["in_doubt"] else "false",
        }
        for message in messages
    )
    return [tuple(row[name] for name in MESSAGE_COLUMNS) for row in rows]
