"""Local days and the reports due for them, across changes of the clock."""

from datetime import UTC, date, datetime, time, timedelta

import pytest

from shared.report.days import day_bounds, due_days, local_instant

BERLIN = "Europe/Berlin"
NINE = time(9)


@pytest.mark.parametrize(
    ("day", "hours"),
    [
        (date(2026, 3, 28), 24),
        (date(2026, 3, 29), 23),  # the clock is advanced
        (date(2026, 3, 30), 24),
        (date(2026, 10, 25), 25),  # the clock is put back
    ],
)
def test_length_of_a_day_follows_the_clock(day: date, hours: int) -> None:
    since, until = day_bounds(day, BERLIN)
    assert until - since == timedelta(hours=hours)
    assert day_bounds(day + timedelta(days=1), BERLIN)[0] == until


def test_day_without_midnight_begins_when_the_clock_is_advanced() -> None:
    day = date(2018, 11, 4)  # from 00:00 to 01:00 in Brazil
    assert day_bounds(day, "America/Sao_Paulo")[0] == datetime(2018, 11, 4, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "at", "utc"),
    [
        (date(2026, 3, 29), NINE, "2026-03-29T07:00"),
        (date(2026, 3, 28), NINE, "2026-03-28T08:00"),
        (date(2026, 3, 29), time(2, 30), "2026-03-29T01:30"),  # never shown: as if not advanced
        (date(2026, 10, 25), time(2, 30), "2026-10-25T00:30"),  # shown twice: the first time
        (date(2026, 10, 25), NINE, "2026-10-25T08:00"),
    ],
)
def test_local_instant_uses_the_clock_of_the_zone(day: date, at: time, utc: str) -> None:
    assert local_instant(day, at, BERLIN) == datetime.fromisoformat(utc).replace(tzinfo=UTC)


@pytest.mark.parametrize("change", [date(2026, 3, 29), date(2026, 10, 25)])
def test_day_is_due_at_the_report_time_and_not_before(change: date) -> None:
    due = local_instant(change, NINE, BERLIN)
    told = change - timedelta(days=1)
    assert told in due_days(due, NINE, BERLIN)
    assert told not in due_days(due - timedelta(seconds=1), NINE, BERLIN)
    assert change not in due_days(due, NINE, BERLIN)


def test_every_day_is_due_once_in_order() -> None:
    """Checked every hour for a year: each day becomes due once, on the following day."""
    seen: list[date] = []
    at = datetime(2026, 1, 1, tzinfo=UTC)
    while at < datetime(2027, 1, 1, tzinfo=UTC):
        newest = due_days(at, NINE, BERLIN)[-1]
        if not seen or newest != seen[-1]:
            seen.append(newest)
        at += timedelta(hours=1)
    assert seen == [date(2025, 12, 30) + timedelta(days=n) for n in range(len(seen))]
    assert seen[-1] == date(2026, 12, 30)


def test_days_of_the_past_week_are_due_oldest_first() -> None:
    days = due_days(datetime(2026, 11, 23, 12, tzinfo=UTC), NINE, "Europe/Moscow")
    assert days == [date(2026, 11, n) for n in range(16, 23)]
