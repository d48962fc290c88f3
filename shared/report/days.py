"""Local days: their first and last instants, and the days whose report is due."""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

CATCH_UP_DAYS = 7


def local_instant(day: date, at: time, zone: str) -> datetime:
    """Return the instant, in UTC, at which the wall clock of `zone` shows `at` on `day`.

    If the clock shows it twice, that is the first time; if it never does, the instant at which it
    would if the clock had not been advanced.
    """
    return datetime.combine(day, at, ZoneInfo(zone)).astimezone(UTC)


def day_bounds(day: date, zone: str) -> tuple[datetime, datetime]:
    """Return the first instant of a local day, and the first instant after it."""
    return local_instant(day, time(), zone), local_instant(day + timedelta(days=1), time(), zone)


def due_days(now: datetime, at: time, zone: str) -> list[date]:
    """Return the days of the past week whose report is due, the oldest first.

    A day's report is due on the following day at `at`.
    """
    today = now.astimezone(ZoneInfo(zone)).date()
    days = [today - timedelta(days=n) for n in range(CATCH_UP_DAYS, 0, -1)]
    return [day for day in days if local_instant(day + timedelta(days=1), at, zone) <= now]
