"""Tables of the brake: the provider's answers to a mailing's messages, and its refusals."""

from datetime import datetime

from sqlalchemy import Integer, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base


class AnswerCount(Base):
    """The provider's answers to a mailing's messages that one connection has recorded.

    Only mailings with a rule `stop_when` have rows. `round` is the mailing's `answer_round` when
    they were counted: resuming it, or retrying its failed messages, begins another. Slot -1 has all
    answers of the round; slots 0 to 15 have those of the periods of five seconds whose number
    modulo 16 is the slot, so the row of an old period is reused.
    """

    __tablename__ = "answer_counts"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    round: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    slot: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    period: Mapped[int]
    accepted: Mapped[int]
    refused: Mapped[int]

    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)


class RefusalCount(Base):
    """How often the provider refused a mailing's messages with one status and reason.

    `example` is one of the answers, without phones and texts. A mailing has at most some dozens of
    reasons; what is beyond is counted as `other`.
    """

    __tablename__ = "refusal_counts"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    http_status: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    example: Mapped[str]
    last_at: Mapped[datetime]

    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)
