"""Tables of the policy, which limits all mailings, and of the emergency stop."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Integer
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from shared.db.base import NOW, ZERO, Base


class PolicyVersion(Base):
    """One version of the policy. The one with the highest number is in force; none ever changes."""

    __tablename__ = "policies"

    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    max_audience: Mapped[int | None]
    stop_when: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    budget: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    launch_delay: Mapped[int] = mapped_column(Integer, server_default=ZERO)  # in seconds
    notify: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_by: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("max_audience > 0", name="policies_max_audience"),
        CheckConstraint("launch_delay BETWEEN 0 AND 86400", name="policies_launch_delay"),
    )


class EmergencyStop(Base):
    """One row: since when nothing may be sent, and who stopped it; null while sending is on."""

    __tablename__ = "emergency_stop"

    id: Mapped[bool] = mapped_column(primary_key=True, server_default=sql("true"))
    stopped_at: Mapped[datetime | None]
    stopped_by: Mapped[str | None]

    __table_args__ = (
        CheckConstraint("id", name="emergency_stop_single"),
        CheckConstraint("stopped_at IS NOT NULL OR stopped_by IS NULL", name="emergency_stop_by"),
    )
