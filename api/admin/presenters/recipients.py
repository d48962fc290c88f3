"""The recipients of a mailing: a page of them, one found by phone, and their failed attempts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from werkzeug.datastructures import MultiDict

from api.admin.forms.text_fields import phone_expected, read_phone
from api.admin.pagination import requested_start
from api.client_log import bind_owners
from api.cursors import Page
from api.db import fetch_all
from api.mailings.messages import COLUMNS, list_mailing_messages
from shared.domain.statuses import MessageStatus, Reason

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
        found = fetch_all(BY_PHONE, mailing_id=mailing_id, phone=int(phone))
        rows = [row for row in found if status in (None, shown_status(row))]
        bind_owners([int(phone)])
    elif written:
        rows, problem = [], phone_expected()
    else:
        statuses, opted_out = select_shown(status)
        page = Page(requested_start(), PAGE_ROWS)
        rows, last_id = list_mailing_messages(mailing_id, statuses, page, opted_out=opted_out)
    clients = {row["id"]: row for row in fetch_all(CLIENTS, ids=[row["client_id"] for row in rows])}
    for row in rows:
        row["client"] = clients.get(row["client_id"])
        row["shown_status"] = shown_status(row)
    return rows, last_id, problem


def select_shown(status: str | None) -> tuple[list[MessageStatus], bool | None]:
    """Return the statuses that a tab stands for, and whether their clients have opted out."""
    if status == "opted_out":
        return [MessageStatus.CANCELLED], True
    if status not in list(MessageStatus):
        return [], None
    return [MessageStatus(status)], False if status == MessageStatus.CANCELLED else None


def shown_status(row: Mapping[str, Any]) -> str:
    """Return a message's status as pages show it: opted out is told from cancelled."""
    opted_out = row["status"] == MessageStatus.CANCELLED and row["reason"] == Reason.OPTED_OUT
    return "opted_out" if opted_out else str(row["status"])


def find_attempts(mailing_id: int, message_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the attempts that the provider did not accept by message, the latest first."""
    by_message: dict[int, list[dict[str, Any]]] = {}
    if message_ids:
        for row in fetch_all(ATTEMPTS, mailing_id=mailing_id, ids=message_ids):
            by_message.setdefault(row["message_id"], []).append(row)
    return by_message
