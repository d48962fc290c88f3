"""Tables with a single row of state that all workers share."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, Base


class ProviderState(Base):
    """One row: until when the provider asked all workers to wait."""

    __tablename__ = "provider_state"

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=sql("true"))
    throttled_until: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("id", name="provider_state_single"),)


class Pulse(Base):
    """One row: when workers last reached PostgreSQL, and since when without a gap: see pulse.py."""

    __tablename__ = "pulse"

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=sql("true"))
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    back_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (CheckConstraint("id", name="pulse_single"),)


class TimeZoneRules(Base):
    """One row: the version of the time zone rules that waiting batches' `due_at` follow, and since
    when; empty if they were never recomputed. See worker/maintenance/zone_rules.py.
    """

    __tablename__ = "time_zone_rules"

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=sql("true"))
    version: Mapped[str] = mapped_column(server_default=sql("''"))
    applied_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (CheckConstraint("id", name="time_zone_rules_single"),)
