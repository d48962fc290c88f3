"""The table of erasures."""

from datetime import datetime

from sqlalchemy import Identity
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, ZERO, Base


class Erasure(Base):
    """The phone of a deleted client, until it is erased everywhere.

    `searched_import` is how far the present search has come: imports are searched one by one.
    """

    __tablename__ = "erasures"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    client_id: Mapped[int]
    phone: Mapped[int]
    requested_at: Mapped[datetime] = mapped_column(server_default=NOW)
    searched_at: Mapped[datetime | None]
    searched_import: Mapped[int] = mapped_column(server_default=ZERO)
