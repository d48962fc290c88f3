"""Read messages: of a mailing, of a client, or one by its id with its attempts."""

from collections.abc import Collection
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

import structlog
from sqlalchemy import text

from api.cursors import Page
from api.db import fetch_all
from api.errors import NotFound
from shared.domain.error_texts import error_text
from shared.domain.statuses import MessageStatus, Reason

COLUMNS = "id, mailing_id, client_id, status, reason, attempts, in_doubt, created_at, sent_at"

OF_MAILING = f"""
SELECT {COLUMNS} FROM messages
WHERE mailing_id = :mailing_id AND id > :after ORDER BY id LIMIT :n
"""  # noqa: S608 (constants, here and below)
OF_MAILING_DESCENDING = f"""
SELECT {COLUMNS} FROM messages
WHERE mailing_id = :mailing_id AND id < :after ORDER BY id DESC LIMIT :n
"""  # noqa: S608

# Visits only batches that contain such messages, and no more of them than fill a page, in the order
# of their first ids. The id ranges of batches may overlap, as a message moves to another batch when
# its client's time zone changes; so ids from `until` on are left to the next page. The condition on
# `until` stands inside of the look-up, so that it is judged before the batch's messages are read.
WITH_STATUS = """
WITH matching AS (
    SELECT id, first_id, last_id, cancelled_opted_out,
        sum(CASE WHEN first_id > :after THEN {count} ELSE 0 END)
        OVER (ORDER BY first_id, id ROWS UNBOUNDED PRECEDING) AS running, {count} AS here
    FROM batches WHERE mailing_id = :mailing_id AND {count} > 0 AND last_id > :after
), bound AS (
    SELECT min(first_id) AS until FROM matching WHERE first_id > :after AND running - here >= :n
)
SELECT m.*, bound.until FROM bound LEFT JOIN LATERAL (
    SELECT m.* FROM matching
    CROSS JOIN LATERAL (
        SELECT {columns} FROM messages
        WHERE mailing_id = :mailing_id AND batch_id = matching.id AND {condition}
            AND id > greatest(matching.first_id - 1, :after)
            AND id <= least(matching.last_id, bound.until - 1)
            AND (matching.first_id < bound.until OR bound.until IS NULL)
        ORDER BY id LIMIT :n
    ) m
) m ON true
ORDER BY m.id LIMIT :n
"""
# The same from the end of the list: in the order of the batches' last ids, down to `until`.
WITH_STATUS_DESCENDING = """
WITH matching AS (
    SELECT id, first_id, last_id, cancelled_opted_out,
        sum(CASE WHEN last_id < :after THEN {count} ELSE 0 END)
        OVER (ORDER BY last_id DESC, id ROWS UNBOUNDED PRECEDING) AS running, {count} AS here
    FROM batches WHERE mailing_id = :mailing_id AND {count} > 0 AND first_id < :after
), bound AS (
    SELECT max(last_id) AS until FROM matching WHERE last_id < :after AND running - here >= :n
)
SELECT m.*, bound.until FROM bound LEFT JOIN LATERAL (
    SELECT m.* FROM (  -- OFFSET 0: choose the batches before reading their messages
        SELECT * FROM matching WHERE last_id > bound.until OR bound.until IS NULL OFFSET 0
    ) matching CROSS JOIN LATERAL (
        SELECT {columns} FROM messages
        WHERE mailing_id = :mailing_id AND batch_id = matching.id AND {condition}
            AND id < least(matching.last_id + 1, :after)
            AND id >= greatest(matching.first_id, bound.until + 1)
        ORDER BY id DESC LIMIT :n
    ) m
) m ON true
ORDER BY m.id DESC LIMIT :n
"""
# A page with a filter by date reads this many messages, and holds those that match.
DATED_PAGE_ROWS = 5_000

BY_ID = text(f"""
SELECT {COLUMNS} FROM messages
WHERE id = :message_id AND mailing_id = (
    SELECT m.id FROM (
        SELECT mailing_id, last_id FROM id_blocks
        WHERE first_id <= :message_id ORDER BY first_id DESC LIMIT 1
    ) block
    JOIN mailings m ON m.id = block.mailing_id
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
    WHERE id < :before AND audience > 0 ORDER BY id DESC LIMIT :mailings
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


class MessageRows(NamedTuple):
    """A page of messages as rows of COLUMNS; `last_id` continues it, None at the end of the list.

    A page may hold fewer rows than its limit although more follow.
    """

    rows: list[dict[str, Any]]
    last_id: int | None


def list_mailing_messages(
    mailing_id: int,
    statuses: Collection[MessageStatus],
    page: Page,
    *,
    opted_out: bool | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> MessageRows:
    """Return a page of a mailing's messages in these statuses, or in all if there are none.

    `opted_out`: only those whose clients have opted out, or none of them. `since` and `until` bound
    the instant of sending.
    """
    dated = since is not None or until is not None
    limit = DATED_PAGE_ROWS if dated else page.limit
    query = text(select_messages(frozenset(statuses), page.descending, opted_out))
    after = page.before if page.descending else page.after
    rows = fetch_all(query, mailing_id=mailing_id, after=after, n=limit + 1)
    end = rows[0].get("until") if rows else None
    if end is not None:
        end += 1 if page.descending else -1
    found = _build_page(rows, limit, "id", end)
    if not dated:
        return found
    matching = [
        row
        for row in found.rows
        if row["sent_at"] is not None
        and (since is None or row["sent_at"] >= since)
        and (until is None or row["sent_at"] < until)
    ]
    more = len(matching) > page.limit
    matching = matching[: page.limit]
    return MessageRows(matching, matching[-1]["id"] if more else found.last_id)


def list_client_messages(client_id: int, before: int, limit: int) -> MessageRows:
    """Return messages of a client, that of the newest mailing first, of mailings below `before`.

    `last_id` is an id of a mailing. Raise NotFound if the client never existed.
    """
    if not fetch_all(CLIENT_EXISTS, client_id=client_id):
        raise NotFound(error_text("There is no such client."))
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


@cache
def select_messages(
    statuses: frozenset[MessageStatus], descending: bool = False, opted_out: bool | None = None
) -> str:
    """Return the statement for a page of messages in one of these statuses; none means any.

    `opted_out`: only those whose clients have opted out, or none of them.
    """
    if not statuses:
        return OF_MAILING_DESCENDING if descending else OF_MAILING
    query = WITH_STATUS_DESCENDING if descending else WITH_STATUS
    count = " + ".join(sorted(statuses))
    names = ", ".join(f"'{status}'" for status in sorted(statuses))
    condition = f"status IN ({names})"
    if opted_out:
        count, condition = "cancelled_opted_out", f"{condition} AND reason = '{Reason.OPTED_OUT}'"
    elif opted_out is False:
        # Batches of mailings that were settled before opt-outs were counted list them here.
        count = f"{count} - cancelled_opted_out"
        others = f"reason IS DISTINCT FROM '{Reason.OPTED_OUT}'"
        condition = f"{condition} AND (matching.cancelled_opted_out = 0 OR {others})"
    return query.format(columns=COLUMNS, count=f"({count})", condition=condition)


def get_message(message_id: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a message and its latest attempts, the earliest first, or raise NotFound."""
    found = fetch_all(BY_ID, message_id=message_id)
    if not found:
        raise NotFound(error_text("There is no such message."))
    message = found[0]
    ids = {"mailing_id": message["mailing_id"], "client_id": message["client_id"]}
    structlog.contextvars.bind_contextvars(**ids)
    attempts = fetch_all(ATTEMPTS, mailing_id=message["mailing_id"], message_id=message_id)
    if message["sent_at"] is not None:
        attempts.append(ACCEPTED_ATTEMPT | {"at": message["sent_at"]})
    return message, attempts
