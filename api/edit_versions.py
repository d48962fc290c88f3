"""Edit versions: a change can be bound to the version that its author has read.

The version of a client or a mailing is incremented by each edit, and by nothing else: not by its
status, its counts or what is sent.
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import select

from api.db import db
from api.errors import VersionMismatch
from shared.db.audit_models import AuditEntry
from shared.db.models import Client, Mailing

# An entry this much older than the object's last change describes an earlier one: imports change
# clients without an entry for each.
MAX_ENTRY_AGE = timedelta(seconds=60)


def check_version(edited: Client | Mailing, permitted: Collection[int] | None) -> None:
    """Raise VersionMismatch unless the locked object has a permitted version; None permits all."""
    if permitted is None or edited.version in permitted:
        return
    author, changed_at = last_edit(type(edited).__name__.lower(), edited.id, edited.updated_at)
    raise VersionMismatch(edited.version, author, changed_at)


def last_edit(entity: str, entity_id: int, updated_at: datetime) -> tuple[str | None, datetime]:
    """Return who edited an object last, and when; no name if the audit log has none."""
    entry = db.session.execute(
        select(AuditEntry.actor, AuditEntry.at)
        .where(AuditEntry.entity == entity, AuditEntry.entity_id == entity_id)
        .where(AuditEntry.action == "updated")
        .order_by(AuditEntry.id.desc())
        .limit(1)
    ).first()
    if entry is None or entry.at < updated_at - MAX_ENTRY_AGE:
        return None, updated_at
    return entry.actor, entry.at
