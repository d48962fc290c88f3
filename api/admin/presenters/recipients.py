"""The recipients of a mailing: a page of them, one found by phone, and each one's attempts."""

from typing import Any

from sqlalchemy import text
from werkzeug.datastructures import MultiDict

from api.admin.forms.text_fields import phone_expected, read_phone
from api.db import fetch_all
from api.http.pagination import MAX_ID
from api.mailings.messages import ALL, BY_STATUS
from shared.domain.statuses import MessageStatus

PAGE = 25

BY_PHONE = text("""
SELECT m.id, m.mailing_id, m.client_id, m.status, m.reason, m.attempts, m.in_doubt, m.created_at,
    m.sent_at
FROM clients c JOIN messages m ON m.mailing_id = :mailing_id AND m.client_id = c.id
WHERE c.phone = :phone
""")
CLIENTS = text("SELECT id, phone, tag, timezone FROM clients WHERE id = ANY (:ids)")
SEVERAL_ATTEMPTS = text("""
SELECT message_id, at, outcome, reason, http_status, latency_ms, excerpt FROM attempts
WHERE mailing_id = :mailing_id AND message_id = ANY (:ids) ORDER BY at DESC LIMIT 500
""")


def recipients_of(
    mailing_id: int, status: str | None, args: MultiDict[str, str]
) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """A page of recipients, where the next one continues, and what is wrong with the search."""
    given = (args.get("phone") or "").strip()
    following = None
    if given:
        phone = read_phone(given)
        if phone is None:
            return [], None, phone_expected()
        found = fetch_all(BY_PHONE, mailing_id=mailing_id, phone=int(phone))
    else:
        after = args.get("after", "")
        start = int(after) if after.isdecimal() and int(after) <= MAX_ID else 0
        query = ALL if status is None else BY_STATUS[MessageStatus(status)]
        found = fetch_all(query, mailing_id=mailing_id, after=start, n=PAGE + 1)
        until = found[0].get("until") if found else None
        found = [row for row in found if row["id"] is not None]
        if len(found) > PAGE:
            found = found[:PAGE]
            following = found[-1]["id"]
        elif until is not None:
            following = until - 1
    known = {row["id"]: row for row in fetch_all(CLIENTS, ids=[row["client_id"] for row in found])}
    for row in found:
        row["client"] = known.get(row["client_id"])
    return found, following, None


def attempts_of(mailing_id: int, ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """The attempts of these messages that the provider did not accept, the latest first."""
    by_message: dict[int, list[dict[str, Any]]] = {}
    if ids:
        for row in fetch_all(SEVERAL_ATTEMPTS, mailing_id=mailing_id, ids=ids):
            by_message.setdefault(row["message_id"], []).append(row)
    return by_message
