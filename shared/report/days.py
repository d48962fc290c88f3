"""Local days: when one begins and ends, and which ones a report is due for."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

CATCH_UP_DAYS = 7


def local_instant(day: date, at: time, zone: str) -> datetime:
    """When the wall clock of `zone` shows `at` on `day`, in UTC.

    Where the clock shows it twice, the first time; where it never does, the moment it would have
    been, had the clock not been moved.
    """
    return datetime.combine(day, at, ZoneInfo(zone)).astimezone(UTC)


def day_bounds(day: date, zone: str) -> tuple[datetime, datetime]:
    """The first instant of a local day, and the first one after it."""
    return local_instant(day, time(), zone), local_instant(day + timedelta(days=1), time(), zone)


def due_days(now: datetime, at: time, zone: str) -> list[date]:
    """The days of the last week that ended, and whose time to be told of has come: oldest first.

    A day is told of on the day after it, at `at`.
    """
    today = now.astimezone(ZoneInfo(zone)).date()
    days = [today - timedelta(days=n) for n in range(CATCH_UP_DAYS, 0, -1)]
    return [day for day in days if local_instant(day + timedelta(days=1), at, zone) <= now]
