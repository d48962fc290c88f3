"""The tables of who may call, and of what they were answered: tokens and idempotency keys."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index, UniqueConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base
from shared.domain.scopes import Scope


class ApiToken(Base):
    """A token that a caller of the API shows. Of its secret only the SHA-256 and a prefix are kept.

    A revoked one stays as a record; its name may be given again.
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
    """The first answer to a request with this key, for those who ask again within a day.

    `owner` is the id of the caller's token (0: the bootstrap token); `answer` is missing only
    inside of the transaction that makes it.
    """

    __tablename__ = "idempotency_keys"

    owner: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[bytes]
    answer: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (Index("idempotency_keys_created_at", "created_at"),)
