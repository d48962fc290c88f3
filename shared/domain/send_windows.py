"""Local-time windows: whether one is open at an instant, when it opens, when it closes.

A window is open if the wall clock of the time zone shows a time from `start` (inclusive) to `end`
(exclusive), possibly across midnight. This is defined for every instant, so daylight saving needs
no special rule. In a spring gap, a window wholly inside of it does not open that day, and one that
starts inside opens when the gap ends. In an autumn fold, a window is open whenever the clock shows
a time inside of it, possibly twice.
"""

from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

# A window opens daily; four days cover a skipped day and any shift of the clock.
HORIZON_DAYS = 4
SAMPLING_STEP = timedelta(hours=3)


class UnknownTimeZone(ValueError):
    """The time zone data of this process do not contain the zone."""


class Window(NamedTuple):
    """The local hours in which messages may be sent; `start` differs from `end`."""

    start: time
    end: time

    def contains(self, wall: time) -> bool:
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end


def make_window(start: time | None, end: time | None) -> Window | None:
    """Return the window of a mailing's two columns; None if messages may be sent at any hour."""
    return None if start is None or end is None else Window(start, end)


def is_open(window: Window | None, zone: str, at: datetime) -> bool:
    """Return whether messages may be sent to `zone` at the instant `at` (aware).

    Raise UnknownTimeZone, as the other functions do; without a window the zone does not matter.
    """
    return window is None or window.contains(at.astimezone(find_zone(zone)).time())


def next_opening(window: Window | None, zone: str, at: datetime) -> datetime:
    """Return the first instant from `at` on at which the window is open."""
    if window is None or is_open(window, zone, at):
        return at
    return next(
        e for e in _possible_edges(window, zone, _day(at)) if e > at and is_open(window, zone, e)
    )


def next_due(window: Window | None, zone: str, at: datetime) -> datetime:
    """Return when the messages of a zone become due: when the window opens next.

    Those of an unknown zone are due at once: the dispatcher that claims them ends them.
    """
    try:
        return next_opening(window, zone, at)
    except UnknownTimeZone:
        return at


def next_closing(window: Window | None, zone: str, at: datetime) -> datetime | None:
    """Return when the window, open at `at`, closes next; None if it never does."""
    if window is None:
        return None
    return next(
        e
        for e in _possible_edges(window, zone, _day(at))
        if e > at and not is_open(window, zone, e)
    )


def find_zone(name: str) -> ZoneInfo:
    """Return the time zone of this name. Raise UnknownTimeZone."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there, no name of a zone, or a directory
        raise UnknownTimeZone(name) from None


def _day(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@lru_cache(maxsize=4096)
def _possible_edges(window: Window, zone_name: str, day: datetime) -> list[datetime]:
    """Return the instants around `day` at which the window may open or close, in order.

    These are its two times on each local date (twice in a fold), and the instants at which the
    zone's offset changes.
    """
    zone = find_zone(zone_name)
    date = day.astimezone(zone).date() - timedelta(days=1)
    edges = set(_offset_changes(zone, day - timedelta(days=1), HORIZON_DAYS + 2))
    for days in range(HORIZON_DAYS + 2):
        for wall in window:
            local = datetime.combine(date + timedelta(days=days), wall, zone)
            edges.update(local.replace(fold=fold).astimezone(UTC) for fold in (0, 1))
    return sorted(edges)


def _offset_changes(zone: ZoneInfo, start: datetime, days: int) -> list[datetime]:
    """Return the instants within `days` of `start` at which the offset from UTC changes."""
    shifts = []
    before, until = start, start + timedelta(days=days)
    while before < until:
        after = before + SAMPLING_STEP
        if _offset(zone, before) != _offset(zone, after):
            low, high = before, after
            while high - low > timedelta(seconds=1):
                middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
                if _offset(zone, middle) == _offset(zone, low):
                    low = middle
                else:
                    high = middle
            shifts.append(high)
        before = after
    return shifts


def _offset(zone: ZoneInfo, instant: datetime) -> timedelta | None:
    return instant.astimezone(zone).utcoffset()
