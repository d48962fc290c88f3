"""PostgreSQL's clock, carried on by one that cannot stop or jump.

Ends, windows and leases are instants of the database's clock. CLOCK_BOOTTIME runs on while this
process is stopped and while the machine sleeps, and nobody sets it; so a deadline is converted to
it once and compared with it before each hand-off. Asking the database takes a moment during which
its answer ages: what must not happen too late is judged by the latest time it can be there, what
must not happen too early by the earliest.
"""

import time
from datetime import UTC, datetime

from psycopg2.extensions import cursor as Cursor

from shared.db.rows import fetch_one_row


def boottime() -> float:
    """Seconds since the machine booted, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """Converts instants of the database into boottime, from the newest reading of both clocks."""

    def __init__(self) -> None:
        # One value, so that a thread never sees half of another one's reading.
        self._reading = (0.0, 0.0, 0.0)

    def read(self, cursor: Cursor) -> None:
        """Read both clocks: one round trip."""
        before = boottime()
        cursor.execute("SELECT clock_timestamp()")
        (instant,) = fetch_one_row(cursor)
        self.observe(instant, before, boottime())

    def observe(self, instant: datetime, before: float, after: float) -> None:
        """Take `instant` as read from the database at some moment between two boottimes."""
        self._reading = instant.timestamp(), before, after

    def deadline(self, instant: datetime) -> float:
        """The boottime from which it may be `instant` in the database, or later."""
        read, before, _ = self._reading
        return before + (instant.timestamp() - read)

    def start_time(self, instant: datetime) -> float:
        """The boottime from which it is certainly `instant` in the database, or later."""
        read, _, after = self._reading
        return after + (instant.timestamp() - read)

    def earliest_now(self) -> datetime:
        """The instant that it certainly is in the database by now."""
        read, _, after = self._reading
        return datetime.fromtimestamp(read + boottime() - after, UTC)
