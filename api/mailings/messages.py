"""Messages: what became of each, found through its mailing or by its id alone."""

from typing import Any

from flask import Blueprint
from sqlalchemy import text

from api.db import fetch_all
from api.errors import NotFound
from api.http.pagination import MAX_ID, build_page, encode_cursor
from api.mailings.message_schemas import (
    MessageDetails,
    MessagePage,
    MessageQuery,
    present_attempt,
    present_message,
)
from api.mailings.routes import find_mailing
from api.openapi.operation import operation
from api.schemas.base import PageQuery
from shared.domain.statuses import MessageStatus

blueprint = Blueprint("messages", __name__)

COLUMNS = "id, mailing_id, client_id, status, reason, attempts, in_doubt, created_at, sent_at"

ALL = text(f"""
SELECT {COLUMNS} FROM messages
WHERE mailing_id = :mailing_id AND id > :after ORDER BY id LIMIT :n
""")  # noqa: S608 (constants)

# Only batches that have such messages are visited, and no more of them than fill a page. They are
# taken in the order of their first ids; as their ranges may overlap (a message moves to another
# batch when its client's zone changes), ids from `until` on are left to the next page.
WITH_STATUS = """
WITH holding AS (
    SELECT id, first_id, last_id, sum(CASE WHEN first_id > :after THEN {status} ELSE 0 END)
        OVER (ORDER BY first_id, id ROWS UNBOUNDED PRECEDING) AS running, {status} AS here
    FROM batches WHERE mailing_id = :mailing_id AND {status} > 0 AND last_id > :after
), bound AS (
    SELECT min(first_id) AS until FROM holding WHERE first_id > :after AND running - here >= :n
)
SELECT m.*, bound.until FROM bound LEFT JOIN LATERAL (
    SELECT m.* FROM holding
    CROSS JOIN LATERAL (
        SELECT {columns} FROM messages
        WHERE mailing_id = :mailing_id AND batch_id = holding.id AND status = '{status}'
            AND id BETWEEN greatest(holding.first_id, :after + 1)
            AND least(holding.last_id, bound.until - 1)
        ORDER BY id LIMIT :n
    ) m
    WHERE holding.first_id < bound.until OR bound.until IS NULL
) m ON true
ORDER BY m.id LIMIT :n
"""
BY_STATUS = {s: text(WITH_STATUS.format(status=s, columns=COLUMNS)) for s in MessageStatus}

ONE = text(f"""
SELECT {COLUMNS} FROM messages
WHERE id = :message_id AND mailing_id = (
    SELECT g.id FROM (
        SELECT mailing_id, last_id FROM id_blocks
        WHERE first_id <= :message_id ORDER BY first_id DESC LIMIT 1
    ) block
    JOIN mailings g ON g.id = block.mailing_id AND g.deleted_at IS NULL
    WHERE block.last_id >= :message_id
)
""")  # noqa: S608 (constants)

ATTEMPTS = text("""
SELECT at, outcome, reason, http_status, latency_ms, excerpt FROM attempts
WHERE mailing_id = :mailing_id AND message_id = :message_id ORDER BY at
""")

# Newest mailing first, some mailings at a time: each is one probe of an index of its partition.
SCANNED = 2_000
OF_CLIENT = text(f"""
WITH probed AS MATERIALIZED (
    SELECT id FROM mailings
    WHERE id < :before AND deleted_at IS NULL AND audience > 0 ORDER BY id DESC LIMIT :scanned
)
SELECT m.*, (SELECT CASE WHEN count(*) = :scanned THEN min(id) END FROM probed) AS reached
FROM (VALUES (1)) AS one LEFT JOIN LATERAL (
    SELECT m.* FROM probed CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM messages WHERE mailing_id = probed.id AND client_id = :client_id
    ) m ORDER BY mailing_id DESC LIMIT :n
) m ON true
ORDER BY m.mailing_id DESC
""")  # noqa: S608 (constants)
CLIENT_EXISTS = text("SELECT true FROM clients WHERE id = :client_id")

# What is known of every attempt that was accepted: millions are, so none has a row of its own.
ACCEPTED = {
    "outcome": "accepted",
    "reason": "accepted",
    "http_status": 200,
    "latency_ms": None,
    "excerpt": "",
}


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

    By id. With `status`, a page may hold fewer than `limit` while there are more: go on until
    `next_cursor` is null.
    """
    find_mailing(mailing_id)
    limits = {"mailing_id": mailing_id, "after": query.cursor, "n": query.limit + 1}
    if query.status is None:
        return _page(fetch_all(ALL, **limits), query.limit)
    found = fetch_all(BY_STATUS[query.status], **limits)
    until = found[0]["until"]
    answer = _page([row for row in found if row["id"] is not None], query.limit)
    if answer["next_cursor"] is None and until is not None:
        answer["next_cursor"] = encode_cursor(until - 1)
    return answer


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

    Of the newest mailing first; also of a client who was deleted. A page may hold fewer than
    `limit` while there are more: go on until `next_cursor` is null.
    """
    if not fetch_all(CLIENT_EXISTS, client_id=client_id):
        raise NotFound("There is no such client.")
    limits = {"before": query.cursor or MAX_ID, "scanned": SCANNED, "n": query.limit + 1}
    found = fetch_all(OF_CLIENT, client_id=client_id, **limits)
    reached = found[0]["reached"]
    shown = [row for row in found if row["id"] is not None]
    answer = build_page(shown, query.limit, present_message, lambda row: int(row["mailing_id"]))
    if answer["next_cursor"] is None and reached is not None:
        answer["next_cursor"] = encode_cursor(reached)
    return answer


@blueprint.get("/messages/<id:message_id>")
@operation("messages", response=MessageDetails, description="The message.", problems=(404,))
def get_message(message_id: int) -> dict[str, Any]:
    """Get a message

    With every attempt in `attempt_log`. Of the accepted one only the time is kept.
    """
    found = fetch_all(ONE, message_id=message_id)
    if not found:
        raise NotFound("There is no such message.")
    message = found[0]
    attempts = fetch_all(ATTEMPTS, mailing_id=message["mailing_id"], message_id=message_id)
    if message["sent_at"] is not None:
        attempts.append(ACCEPTED | {"at": message["sent_at"]})
    return present_message(message) | {"attempt_log": [present_attempt(row) for row in attempts]}


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return build_page(found, limit, present_message, lambda row: int(row["id"]))
