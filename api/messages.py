"""Messages: what became of each, found through its mailing or by its id alone."""

from typing import Any

from flask import Blueprint
from sqlalchemy import text

from api.answers import MessageDetails, MessagePage, present_attempt, present_message
from api.database import rows
from api.mailings import find_mailing
from api.openapi import operation
from api.pages import encode_cursor, page
from api.problems import NotFound
from api.schemas import MessageQuery
from shared.statuses import MessageStatus

messages = Blueprint("messages", __name__)

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


@messages.get("/mailings/<id:mailing_id>/messages")
@operation(
    "messages", answer=MessagePage, says="A page of messages.", query=MessageQuery, problems=(404,)
)
def list_messages(mailing_id: int, query: MessageQuery) -> dict[str, Any]:
    """List a mailing's messages

    By id. With `status`, a page may hold fewer than `limit` while there are more: go on until
    `next_cursor` is null.
    """
    find_mailing(mailing_id)
    limits = {"mailing_id": mailing_id, "after": query.cursor, "n": query.limit + 1}
    if query.status is None:
        return _page(rows(ALL, **limits), query.limit)
    found = rows(BY_STATUS[query.status], **limits)
    until = found[0]["until"]
    answer = _page([row for row in found if row["id"] is not None], query.limit)
    if answer["next_cursor"] is None and until is not None:
        answer["next_cursor"] = encode_cursor(until - 1)
    return answer


@messages.get("/messages/<id:message_id>")
@operation("messages", answer=MessageDetails, says="The message.", problems=(404,))
def get_message(message_id: int) -> dict[str, Any]:
    """Get a message

    With every attempt that the provider did not accept.
    """
    found = rows(ONE, message_id=message_id)
    if not found:
        raise NotFound("There is no such message.")
    message = found[0]
    attempts = rows(ATTEMPTS, mailing_id=message["mailing_id"], message_id=message_id)
    return present_message(message) | {"attempt_log": [present_attempt(row) for row in attempts]}


def _page(found: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return page(found, limit, present_message, lambda row: int(row["id"]))
