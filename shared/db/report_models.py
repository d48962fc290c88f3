"""Tables of the daily report: the state of each day's report, and openings of the breaker."""

from datetime import date, datetime

from sqlalchemy import CheckConstraint, Date, Integer
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, ZERO, Base


class DailyReport(Base):
    """The report of one local day; claiming the row ensures that it is sent once.

    waiting → connecting → handing_over → sent. A failure before the message itself is transmitted
    leads back to `waiting`, with a later `due_at`. If the connection breaks in `handing_over`, only
    the mail server knows whether it accepted the message: the report is `in_doubt` and not sent
    again. A server has accepted it for the recipients in `served`; later attempts omit them.
    Days before the first report are `skipped`.
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
    """When the circuit breaker stopped sending, and why."""

    __tablename__ = "breaker_openings"

    at: Mapped[datetime] = mapped_column(primary_key=True, server_default=NOW)
    reason: Mapped[str]
