"""Tables of the people who sign in to the admin UI, and of their sessions."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base


class Person(Base):
    """A person, known by issuer and subject; name and e-mail are what the provider said last.

    Rows are kept, because the audit log refers to people by issuer and subject.
    """

    __tablename__ = "people"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    issuer: Mapped[str]
    subject: Mapped[str]
    name: Mapped[str]
    email: Mapped[str]
    email_verified: Mapped[bool]
    signed_in_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (
        UniqueConstraint("issuer", "subject", name="people_issuer_subject_key"),
        Index("people_email", sql("lower(email)")),
    )


class AdminSession(Base):
    """A session of the admin UI. Of the secret in its cookie only the SHA-256 is stored.

    `provider_session` is the provider's id of its session (`sid`). `tokens` are the provider's
    tokens, encrypted with a key derived from SECRET_KEY; an ended session has none.
    """

    __tablename__ = "admin_sessions"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    digest: Mapped[bytes]
    person_id: Mapped[int]
    role: Mapped[str]
    provider_session: Mapped[str | None]
    tokens: Mapped[bytes | None]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    checked_at: Mapped[datetime] = mapped_column(server_default=NOW)
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("digest", name="admin_sessions_digest_key"),
        CheckConstraint("octet_length(digest) = 32", name="admin_sessions_digest_length"),
        CheckConstraint("role IN ('viewer', 'operator', 'admin')", name="admin_sessions_role"),
        CheckConstraint("ended_at IS NULL OR tokens IS NULL", name="admin_sessions_ended"),
        Index("admin_sessions_person_id", "person_id"),
        Index("admin_sessions_expires_at", "expires_at"),
    )


class ProviderLogout(Base):
    """A logout token of the OpenID provider: accepted once, and known to sign-ins it overtakes."""

    __tablename__ = "provider_logouts"

    token_id: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str | None]
    provider_session: Mapped[str | None]
    issued_at: Mapped[datetime]
    keep_until: Mapped[datetime]

    __table_args__ = (Index("provider_logouts_keep_until", "keep_until"),)
