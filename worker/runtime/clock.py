"""PostgreSQL's clock, continued between queries by CLOCK_BOOTTIME, which cannot stop or jump.

Ends, windows and leases are instants of the database's clock. CLOCK_BOOTTIME continues while this
process is stopped and while the machine sleeps, and cannot be set; so an instant is converted to
boottime once and compared with it before each request. A query takes a moment, during which its
answer ages: what must not happen too late is judged by the latest possible time in the database,
what must not happen too early by the earliest.
"""

import time
from datetime import UTC, datetime

from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row


def boottime() -> float:
    """Return the seconds since the machine booted, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """Converts instants of the database into boottime, from the newest reading of both clocks."""

    def __init__(self) -> None:
        # One tuple, so that another thread never sees half of a new reading.
        self._reading = (0.0, 0.0, 0.0)

    def read(self, cursor: Cursor) -> None:
        """Read both clocks: one round trip."""
        before = boottime()
        cursor.execute("SELECT clock_timestamp()")
        (instant,) = fetch_one_row(cursor)
        self.observe(instant, before, boottime())

    def observe(self, instant: datetime, before: float, after: float) -> None:
        """Store `instant`, which was read from the database between these two boottimes."""
        self._reading = instant.timestamp(), before, after

    def deadline(self, instant: datetime) -> float:
        """Return the boottime from which the database's clock may have reached `instant`."""
        read, before, _ = self._reading
        return before + (instant.timestamp() - read)

    def start_time(self, instant: datetime) -> float:
        """Return the boottime from which the database's clock has certainly reached `instant`."""
        read, _, after = self._reading
        return after + (instant.timestamp() - read)

    def earliest_now(self) -> datetime:
        """Return the instant that the database's clock has certainly reached by now."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """Return `earliest_now` in seconds since 1970."""
        read, _, after = self._reading
        return read + boottime() - after
