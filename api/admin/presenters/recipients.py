"""The recipients of a mailing: a page of them, one found by phone, and their failed attempts."""

from typing import Any

from sqlalchemy import text
from werkzeug.datastructures import MultiDict

from api.admin.forms.text_fields import phone_expected, read_phone
from api.admin.pagination import requested_start
from api.client_log import bind_owners
from api.cursors import Page
from api.db import fetch_all
from api.mailings.messages import COLUMNS, list_mailing_messages
from shared.domain.statuses import MessageStatus

PAGE_ROWS = 25

BY_PHONE = text(f"""
SELECT {COLUMNS} FROM messages WHERE mailing_id = :mailing_id
    AND client_id = (SELECT id FROM clients WHERE phone = :phone)
""")  # noqa: S608 (constants)
CLIENTS = text("SELECT id, phone, tag, timezone FROM clients WHERE id = ANY (:ids)")
ATTEMPTS = text("""
SELECT message_id, at, outcome, reason, http_status, latency_ms, excerpt FROM attempts
WHERE mailing_id = :mailing_id AND message_id = ANY (:ids) ORDER BY at DESC LIMIT 500
""")


def find_recipients(
    mailing_id: int, status: str | None, args: MultiDict[str, str]
) -> tuple[list[dict[str, Any]], int | None, str | None]:
    """Return a page of recipients, the id that continues it, and a message for an invalid phone."""
    problem, last_id = None, None
    written = (args.get("phone") or "").strip()
    phone = read_phone(written)
    if phone is not None:
        rows = fetch_all(BY_PHONE, mailing_id=mailing_id, phone=int(phone))
        bind_owners([int(phone)])
    elif written:
        rows, problem = [], phone_expected()
    else:
        rows, last_id = list_mailing_messages(
            mailing_id,
            [MessageStatus(status)] if status else [],
            Page(requested_start(), PAGE_ROWS),
        )
    clients = {row["id"]: row for row in fetch_all(CLIENTS, ids=[row["client_id"] for row in rows])}
    for row in rows:
        row["client"] = clients.get(row["client_id"])
    return rows, last_id, problem


def find_attempts(mailing_id: int, message_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the attempts that the provider did not accept by message, the latest first."""
    by_message: dict[int, list[dict[str, Any]]] = {}
    if message_ids:
        for row in fetch_all(ATTEMPTS, mailing_id=mailing_id, ids=message_ids):
            by_message.setdefault(row["message_id"], []).append(row)
    return by_message
