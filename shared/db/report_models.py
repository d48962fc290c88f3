"""The tables of the daily report: which days were told, and when the breaker opened."""

from datetime import date, datetime

from sqlalchemy import CheckConstraint, Date, Integer
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, ZERO, Base


class DailyReport(Base):
    """One local day's report. The row decides who sends it, and that nobody gets two.

    waiting → connecting → handing_over → sent. A failure before the mail server was given the
    message leads back to `waiting`, with `due_at` later. After that only the server knows: a
    connection that breaks while it is `handing_over` makes it `in_doubt`, and it is not sent again.
    `served` are the recipients for whom a server has taken it: a later attempt leaves them out.
    `skipped` are the days before the first report.
    """

    __tablename__ = "daily_reports"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    status: Mapped[str] = mapped_column(server_default=sql("'waiting'"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    served: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    error: Mapped[str | None]
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint(
            "status IN ('waiting', 'connecting', 'handing_over', 'sent', 'in_doubt', 'skipped')",
            name="daily_reports_status",
        ),
        CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="daily_reports_sent"),
    )


class BreakerOpening(Base):
    """When hand-off to the provider was stopped, and why."""

    __tablename__ = "breaker_openings"

    at: Mapped[datetime] = mapped_column(primary_key=True, server_default=NOW)
    reason: Mapped[str]
