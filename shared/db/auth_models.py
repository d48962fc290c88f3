"""Tables of API tokens and of idempotency keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base
from shared.domain.scopes import Scope


class ApiToken(Base):
    """An API token. Only the SHA-256 and a prefix of its secret are stored.

    A revoked token stays as a record; its name may be reused.
    """

    __tablename__ = "api_tokens"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    scope: Mapped[Scope]
    prefix: Mapped[str]
    digest: Mapped[bytes]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("digest", name="api_tokens_digest_key"),
        CheckConstraint("octet_length(digest) = 32", name="api_tokens_digest_length"),
        CheckConstraint("char_length(name) BETWEEN 1 AND 100", name="api_tokens_name_length"),
        Index("api_tokens_name", "name", unique=True, postgresql_where=sql("revoked_at IS NULL")),
    )


class IdempotencyKey(Base):
    """The first response to a request with this key; a repeated request within a day gets it.

    `owner` is the id of the caller's token (0: the bootstrap token); `answer` is null only within
    the transaction that computes it.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (Index("idempotency_keys_created_at", "created_at"),)
