"""Tables of users' actions: the audit log and test sends."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, Identity, Index
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base


class AuditEntry(Base):
    """A change that a user or a caller made: actor, action, entity, time and request.

    It is written in the transaction of the change, so an entry exists if and only if the change
    does. Rows are never updated and hold no personal data: see api/audit_log/service.py.
    """

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=sql("clock_timestamp()"))
    actor: Mapped[str]
    action: Mapped[str]
    entity: Mapped[str]
    entity_id: Mapped[int | None]
    changes: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sql("'{}'"))
    request_id: Mapped[str | None]

    __table_args__ = (
        Index("audit_log_entity", "entity", "entity_id", "id"),
        Index("audit_log_actor", "actor", "id"),
        Index("audit_log_at", "at"),
    )


class TestSend(Base):
    """A text sent to a few phones to check how it arrives; it belongs to no mailing.

    The API inserts the row; a worker claims it before `expires_at` and writes the results. Its
    messages take ids from the common sequence, so that the provider never receives an id twice.
    """

    __test__ = False  # Keep pytest from collecting the class.
    __tablename__ = "test_sends"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    first_message_id: Mapped[int]
    text: Mapped[str]
    phones: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    results: Mapped[list[dict[str, Any]] | None] = mapped_column(JSONB)
    actor: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    claimed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("cardinality(phones) BETWEEN 1 AND 10", name="test_sends_phones"),
        Index("test_sends_created_at", "created_at"),
    )
