"""The earlier texts of a mailing: who wrote each when, and how many messages were sent with it."""

from datetime import datetime
from typing import NamedTuple

from flask import g
from sqlalchemy import text

from api.audit_log import service as audit_log
from api.audit_log.service import AuditFilter
from api.db import fetch_all
from shared.db.models import Mailing
from shared.domain.scopes import Scope

# The newest versions, and the newest audit entries among which their authors are found.
MAX_VERSIONS = 20
MAX_ENTRIES = 200

TEXTS = text(f"""
SELECT version, text FROM mailing_texts WHERE mailing_id = :id
ORDER BY version DESC LIMIT {MAX_VERSIONS}
""")  # noqa: S608 (a constant)
# A batch keeps the version that it was first claimed with.
SENT_BY_VERSION = text("""
SELECT text_version AS version, sum(sent)::bigint AS sent FROM batches
WHERE mailing_id = :id AND text_version IS NOT NULL GROUP BY 1
""")


class TextVersion(NamedTuple):
    """A version of a text; `at` and `actor` are None where the audit log does not say."""

    version: int
    text: str
    sent: int
    at: datetime | None
    actor: str | None


def list_text_versions(mailing: Mailing) -> list[TextVersion]:
    """Return the versions of a mailing's text, the newest first; none if it never changed."""
    if mailing.text_version == 1:
        return []
    filters = AuditFilter("mailing", mailing.id)
    entries = audit_log.list_entries(filters, before_id=None, limit=MAX_ENTRIES)
    people = audit_log.find_people(entries)
    by_version = {}
    for entry in entries:
        change = entry.changes.get("text")
        if isinstance(change, dict) and isinstance(change.get("new"), dict):
            by_version[change["new"].get("version")] = entry
    sent = {row["version"]: row["sent"] for row in fetch_all(SENT_BY_VERSION, id=mailing.id)}
    versions = []
    for row in fetch_all(TEXTS, id=mailing.id):
        found = by_version.get(row["version"])
        actor = None
        if found is not None and g.person.has_scope(Scope.WRITE):
            actor = people[found.actor].name if found.actor in people else found.actor
        versions.append(
            TextVersion(
                row["version"],
                row["text"],
                sent.get(row["version"], 0),
                found.at if found is not None else None,
                actor,
            )
        )
    return versions
