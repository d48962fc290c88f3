"""Open sessions with their people: as a page of a list, and those used last."""

from typing import Any

from sqlalchemy import text

from api.cursors import Page
from api.db import fetch_all

OPEN = """
SELECT s.id, s.person_id, p.issuer, p.subject, p.name, p.email, p.email_verified, s.role,
    s.started_at, s.seen_at, s.expires_at
FROM admin_sessions s JOIN people p ON p.id = s.person_id
WHERE s.ended_at IS NULL AND s.expires_at > now()
"""
USED_LAST = text(f"{OPEN} ORDER BY s.seen_at DESC, s.id DESC LIMIT :limit")
OLDEST = text(f"{OPEN} AND s.id > :after ORDER BY s.id LIMIT :limit")
NEWEST = text(f"{OPEN} AND s.id < :before ORDER BY s.id DESC LIMIT :limit")


def list_sessions_used_last(limit: int) -> list[dict[str, Any]]:
    """Return the open sessions, those used last first."""
    return fetch_all(USED_LAST, limit=limit)


def list_open_sessions(page: Page) -> list[dict[str, Any]]:
    """Return a page of the open sessions, by id."""
    if page.descending:
        return fetch_all(NEWEST, before=page.before, limit=page.limit)
    return fetch_all(OLDEST, after=page.after, limit=page.limit)
