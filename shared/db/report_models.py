"""Tables of what is sent by e-mail: daily reports with openings of the breaker, notifications."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import CheckConstraint, Date, Identity, Index, Integer
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
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


class Notification(Base):
    """An event of a mailing that people are told of, and the state of its e-mail.

    Triggers write it with the change of the mailing's state: `paused` by a rule, or `finished`. The
    report process writes `late`: at its pace it will not be through by its end, once for each end.
    The states of the e-mail are those of a daily report. It is `skipped` if it has no recipient, or
    could not be sent for a day.
    """

    __tablename__ = "notifications"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    mailing_id: Mapped[int]
    kind: Mapped[str]
    details: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sql("'{}'"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    status: Mapped[str] = mapped_column(server_default=sql("'waiting'"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=ZERO)
    due_at: Mapped[datetime] = mapped_column(server_default=NOW)
    served: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    error: Mapped[str | None]
    sent_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("kind IN ('paused', 'late', 'finished')", name="notifications_kind"),
        CheckConstraint(
            "status IN ('waiting', 'connecting', 'handing_over', 'sent', 'in_doubt', 'skipped')",
            name="notifications_status",
        ),
        CheckConstraint("(status = 'sent') = (sent_at IS NOT NULL)", name="notifications_sent"),
        Index(
            "notifications_open",
            "id",
            postgresql_where=sql("status IN ('waiting', 'connecting', 'handing_over')"),
        ),
        Index(
            "notifications_late",
            "mailing_id",
            sql("(details ->> 'end_at')"),
            unique=True,
            postgresql_where=sql("kind = 'late'"),
        ),
        Index("notifications_created_at", "created_at"),
    )
