"""Tables that lead to the partitions of mailings: see partitions.py."""

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base


class IdBlock(Base):
    """The mailing that a range of message ids belongs to: it leads from an id to a partition."""

    __tablename__ = "id_blocks"

    first_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_id: Mapped[int]
    mailing_id: Mapped[int]


class PartitionRange(Base):
    """A range of mailing ids that has partitions; `until_mailing_id` is the first id after it."""

    __tablename__ = "partition_ranges"

    first_mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    until_mailing_id: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
