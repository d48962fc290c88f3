"""Tables of budgets: what may be used up in a day and a month, and what was used up on each day."""

from datetime import date

from sqlalchemy import Date, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import Base


class BudgetRow(Base):
    """The budget of a mailing, or with the id 0 that of the policy, in SMS segments.

    Claims lock the row, so that what they reserve is added up. `timezone` decides which day an
    instant belongs to.
    """

    __tablename__ = "budgets"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    day_limit: Mapped[int | None]
    month_limit: Mapped[int | None]
    timezone: Mapped[str]


class BudgetDay(Base):
    """The segments that count against a budget on one day. `shard` is as in `minutes`."""

    __tablename__ = "budget_days"

    mailing_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    segments: Mapped[int]
