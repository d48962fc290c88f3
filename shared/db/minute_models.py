"""The table that counts by minute: see minute_counts.py."""

from datetime import datetime

from sqlalchemy import Index, Integer, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import ZERO, Base
from shared.domain.statuses import MessageStatus


class Minute(Base):
    """The net number of a mailing's messages that entered a status in a minute.

    The sum over all minutes is the current count of the status. `shard` spreads the minute of a
    busy mailing over up to 16 rows, so that workers do not wait for one: see minute_counts.py.
    Rows of the status `sent` also have the segments of messages that were sent or are in doubt,
    those of `cancelled` how many of them have opted out.
    """

    __tablename__ = "minutes"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    minute: Mapped[datetime] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    status: Mapped[MessageStatus] = mapped_column(primary_key=True)
    count: Mapped[int] = mapped_column(Integer)
    sent_segments: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    in_doubt_segments: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    opted_out: Mapped[int] = mapped_column(Integer, server_default=ZERO)

    __table_args__ = (
        Index("minutes_minute", "minute"),
        {"postgresql_with": {"fillfactor": "50"}},
    )
