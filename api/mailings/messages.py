"""Read messages: of a mailing, of a client, or one by its id with its attempts; export them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import structlog
from sqlalchemy import text

from api.db import db, fetch_all
from api.errors import NotFound
from api.mailings.service import find_mailing
from shared.domain.statuses import MessageStatus

COLUMNS = "id, mailing_id, client_id, status, reason, attempts, in_doubt, created_at, sent_at"

OF_MAILING = text(f"""
SELECT {COLUMNS} FROM messages
WHERE mailing_id = :mailing_id AND id > :after ORDER BY id LIMIT :n
""")  # noqa: S608 (constants)

# Visits only batches that contain such messages, and no more of them than fill a page, in the order
# of their first ids. The id ranges of batches may overlap, as a message moves to another batch when
# its client's time zone changes; so ids from `until` on are left to the next page. The condition on
# `until` stands inside of the look-up, so that it is judged before the batch's messages are read.
WITH_STATUS = """
WITH matching AS (
    SELECT id, first_id, last_id, sum(CASE WHEN first_id > :after THEN {status} ELSE 0 END)
        OVER (ORDER BY first_id, id ROWS UNBOUNDED PRECEDING) AS running, {status} AS here
    FROM batches WHERE mailing_id = :mailing_id AND {status} > 0 AND last_id > :after
), bound AS (
    SELECT min(first_id) AS until FROM matching WHERE first_id > :after AND running - here >= :n
)
SELECT m.*, bound.until FROM bound LEFT JOIN LATERAL (
    SELECT m.* FROM matching
    CROSS JOIN LATERAL (
        SELECT {columns} FROM messages
        WHERE mailing_id = :mailing_id AND batch_id = matching.id AND status = '{status}'
            AND id > greatest(matching.first_id - 1, :after)
            AND id <= least(matching.last_id, bound.until - 1)
            AND (matching.first_id < bound.until OR bound.until IS NULL)
        ORDER BY id LIMIT :n
    ) m
) m ON true
ORDER BY m.id LIMIT :n
"""
OF_MAILING_WITH_STATUS = {
    status: text(WITH_STATUS.format(status=status, columns=COLUMNS)) for status in MessageStatus
}

BY_ID = text(f"""
SELECT {COLUMNS} FROM messages
WHERE id = :message_id AND mailing_id = (
    SELECT m.id FROM (
        SELECT mailing_id, last_id FROM id_blocks
        WHERE first_id <= :message_id ORDER BY first_id DESC LIMIT 1
    ) block
    JOIN mailings m ON m.id = block.mailing_id AND m.deleted_at IS NULL
    WHERE block.last_id >= :message_id
)
""")  # noqa: S608 (constants)

# A message that is retried again and again has any number of attempts; the latest are listed.
MAX_LISTED_ATTEMPTS = 500
ATTEMPTS = text(f"""
SELECT * FROM (
    SELECT at, outcome, reason, http_status, latency_ms, excerpt FROM attempts
    WHERE mailing_id = :mailing_id AND message_id = :message_id
    ORDER BY at DESC LIMIT {MAX_LISTED_ATTEMPTS}
) latest ORDER BY at
""")  # noqa: S608 (a constant)

# Looks into the newest mailings first, a limited number per page: each costs one index probe.
MAILINGS_PER_PAGE = 2_000
OF_CLIENT = text(f"""
WITH probed AS MATERIALIZED (
    SELECT id FROM mailings
    WHERE id < :before AND deleted_at IS NULL AND audience > 0 ORDER BY id DESC LIMIT :mailings
)
SELECT m.*, (SELECT CASE WHEN count(*) = :mailings THEN min(id) END FROM probed) AS reached
FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
    SELECT m.* FROM probed CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM messages WHERE mailing_id = probed.id AND client_id = :client_id
    ) m ORDER BY mailing_id DESC LIMIT :n
) m ON true
ORDER BY m.mailing_id DESC
""")  # noqa: S608 (constants)
CLIENT_EXISTS = text("SELECT true FROM clients WHERE id = :client_id")

# Accepted attempts are not stored: all of them have these values.
ACCEPTED_ATTEMPT = {
    "outcome": "accepted",
    "reason": "accepted",
    "http_status": 200,
    "latency_ms": None,
    "excerpt": "",
}


EXPORT_COLUMNS = (
    *("id", "client_id", "phone", "status", "reason", "attempts", "in_doubt"),
    *("created_at", "sent_at"),
)
EXPORT_PAGE_ROWS = 5_000
# Rows of EXPORT_COLUMNS, as the file has them, and `until`. A join would read all clients for each
# page of a small directory; a look-up costs the same for every page.
EXPORTED = """
SELECT id, client_id, (SELECT phone FROM clients WHERE clients.id = found.client_id) AS phone,
    status, reason, attempts, CASE WHEN in_doubt THEN 'true' ELSE 'false' END, created_at, sent_at,
    {until} AS until
FROM ({query}) AS found ORDER BY id
"""
EXPORT = text(EXPORTED.format(query=OF_MAILING, until="NULL::bigint"))
EXPORT_WITH_STATUS = {
    status: text(EXPORTED.format(query=query, until="until"))
    for status, query in OF_MAILING_WITH_STATUS.items()
}


class MessageRows(NamedTuple):
    """A page of messages as rows of COLUMNS; `last_id` continues it, None at the end of the list.

    A page may hold fewer rows than its limit although more follow.
    """

    rows: list[dict[str, Any]]
    last_id: int | None


def list_mailing_messages(
    mailing_id: int, status: MessageStatus | None, after: int, limit: int
) -> MessageRows:
    """Return messages of a mailing in the order of their ids, from the first after `after`."""
    query = OF_MAILING if status is None else OF_MAILING_WITH_STATUS[status]
    rows = fetch_all(query, mailing_id=mailing_id, after=after, n=limit + 1)
    until = rows[0].get("until") if rows else None
    return _build_page(rows, limit, "id", None if until is None else until - 1)


def list_client_messages(client_id: int, before: int, limit: int) -> MessageRows:
    """Return messages of a client, that of the newest mailing first, of mailings below `before`.

    `last_id` is an id of a mailing. Raise NotFound if the client never existed.
    """
    if not fetch_all(CLIENT_EXISTS, client_id=client_id):
        raise NotFound("There is no such client.")
    rows = fetch_all(
        OF_CLIENT, client_id=client_id, before=before, mailings=MAILINGS_PER_PAGE, n=limit + 1
    )
    return _build_page(rows, limit, "mailing_id", rows[0]["reached"])


def _build_page(
    rows: list[dict[str, Any]], limit: int, key: str, last_id: int | None
) -> MessageRows:
    """Build a page of rows; `last_id` continues a page that has fewer rows than its limit."""
    found = [row for row in rows if row["id"] is not None]
    if len(found) > limit:
        last_id = found[limit - 1][key]
    return MessageRows(found[:limit], last_id)


def get_message(message_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a message and its latest attempts, the earliest first, or raise NotFound."""
    found = fetch_all(BY_ID, message_id=message_id)
    if not found:
        raise NotFound("There is no such message.")
    message = found[0]
    ids = {"mailing_id": message["mailing_id"], "client_id": message["client_id"]}
    structlog.contextvars.bind_contextvars(**ids)
    attempts = fetch_all(ATTEMPTS, mailing_id=message["mailing_id"], message_id=message_id)
    if message["sent_at"] is not None:
        attempts.append(ACCEPTED_ATTEMPT | {"at": message["sent_at"]})
    return message, attempts


def export_messages(
    mailing_id: int, status: MessageStatus | None
) -> Iterator[list[tuple[Any, ...]]]:
    """Return a mailing's messages, or those in one status, as rows of EXPORT_COLUMNS in pages.

    The phone is the client's present one, None for a deleted client. Raise NotFound.
    """
    find_mailing(mailing_id)
    return _iter_export_pages(mailing_id, status)


def _iter_export_pages(
    mailing_id: int, status: MessageStatus | None
) -> Iterator[list[tuple[Any, ...]]]:
    # As tuples, since a dictionary for each of millions of rows would cost more than the rest.
    query = EXPORT if status is None else EXPORT_WITH_STATUS[status]
    after: int | None = 0
    while after is not None:
        values = {"mailing_id": mailing_id, "after": after, "n": EXPORT_PAGE_ROWS + 1}
        rows = db.session.execute(query, values).all()
        found = [row[:-1] for row in rows[:EXPORT_PAGE_ROWS] if row[0] is not None]
        if found:
            yield found
        if len(rows) > EXPORT_PAGE_ROWS:
            after = found[-1][0]
        else:
            until = rows[0][-1] if rows else None
            after = None if until is None else until - 1
