"""Export a mailing's messages as CSV, page by page.

PostgreSQL writes the lines of a page as one text: a row for each of millions of messages in Python
costs several times as much. Pages with a text that may need quotes or be a formula are the
exception: Python writes them, as it does in every other export.
"""

from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import text

from api.db import db
from api.mailings.messages import OF_MAILING, select_messages
from api.mailings.service import find_mailing
from shared.domain.statuses import MessageStatus

EXPORT_COLUMNS = (
    *("id", "client_id", "phone", "status", "reason", "attempts", "in_doubt"),
    *("created_at", "sent_at"),
)
EXPORT_PAGE_ROWS = 5_000
Page = str | list[tuple[Any, ...]]

# The reasons that this service writes are such; none is changed by escaping, nor needs quotes.
PLAIN_REASON = "^[A-Za-z][A-Za-z0-9_:.() -]*$"
# The format of responses: see format_instant.
INSTANT = """'YYYY-MM-DD"T"HH24\\:MI\\:SS.US"Z"'"""
# A page of messages with the phones of their clients. A join would read all clients for each page
# of a small directory; a look-up costs the same for every page.
_FOUND = """
SELECT found.*, (SELECT phone FROM clients WHERE clients.id = found.client_id) AS phone,
    {until} AS page_until
FROM ({query}) AS found
"""
# The page as lines; whether all are plain; its number of messages and last id; and `until`.
LINES = f"""
SELECT string_agg(concat(id, :s, client_id, :s, phone, :s, status, :s, reason, :s, attempts, :s,
        CASE WHEN in_doubt THEN 'true' ELSE 'false' END, :s,
        to_char(created_at AT TIME ZONE 'UTC', {INSTANT}), :s,
        to_char(sent_at AT TIME ZONE 'UTC', {INSTANT}), E'\\r\\n'),
        '' ORDER BY id) FILTER (WHERE id IS NOT NULL),
    coalesce(bool_and(reason ~ '{PLAIN_REASON}'), true), count(id), max(id), max(page_until)
FROM ({_FOUND}) AS page
"""  # noqa: S608 (constants, here and below)
# The page as rows of EXPORT_COLUMNS and `until`.
ROWS = f"""
SELECT id, client_id, phone, status, reason, attempts,
    CASE WHEN in_doubt THEN 'true' ELSE 'false' END, created_at, sent_at, page_until
FROM ({_FOUND}) AS page ORDER BY id
"""  # noqa: S608


def export_messages(
    mailing_id: int,
    statuses: Collection[MessageStatus],
    opted_out: bool | None = None,
    *,
    separator: str,
) -> Iterator[Page]:
    """Return a mailing's messages, or those in these statuses, in pages.

    A page is the text of its lines, with `separator` between cells, or rows of EXPORT_COLUMNS. The
    phone is the client's present one, and empty for a deleted client. Raise NotFound.
    """
    find_mailing(mailing_id, deleted=True)
    selected = select_messages(frozenset(statuses), False, opted_out)
    return _iter_pages(mailing_id, selected, separator)


def _iter_pages(mailing_id: int, selected: str, separator: str) -> Iterator[Page]:
    parts = {"query": selected, "until": "NULL::bigint" if selected == OF_MAILING else "until"}
    lines_query, rows_query = text(LINES.format(**parts)), text(ROWS.format(**parts))
    after: int | None = 0
    while after is not None:
        values = {"mailing_id": mailing_id, "after": after, "n": EXPORT_PAGE_ROWS}
        found = db.session.execute(lines_query, values | {"s": separator}).one()
        lines, plain, count, last_id, until = found
        if plain:
            page: Page = lines
        else:
            page, last_id, until = _read_rows(rows_query, values)
            count = len(page)
        if count:
            yield page
        # A page that is not full may be continued at `until`.
        after = last_id if count == EXPORT_PAGE_ROWS else until and until - 1


def _read_rows(query: Any, values: dict[str, int]) -> tuple[Page, int | None, int | None]:
    """Return a page as rows of EXPORT_COLUMNS, its last id, and `until`."""
    rows = db.session.execute(query, values).all()
    # Tuples, since a dictionary for each of many rows would cost more than the rest.
    found = [tuple(row[:-1]) for row in rows if row[0] is not None]
    return found, found[-1][0] if found else None, rows[0][-1] if rows else None
