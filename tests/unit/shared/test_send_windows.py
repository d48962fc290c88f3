"""Windows compared with a simple model: a wall clock, read minute by minute."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.domain.send_windows import Window, is_open, next_closing, next_opening

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
OFFICE = Window(time(9), time(21))
NIGHT = Window(time(21), time(9))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def plainly_open(window: Window, zone: str, at: datetime) -> bool:
    """Return whether a wall clock in the zone shows a time within the window."""
    wall = at.astimezone(ZoneInfo(zone))
    minutes = wall.hour * 60 + wall.minute
    start = window.start.hour * 60 + window.start.minute
    end = window.end.hour * 60 + window.end.minute
    return start <= minutes < end if start < end else minutes >= start or minutes < end


def first(window: Window, zone: str, at: datetime, wanted: bool) -> datetime:
    """Return the first whole minute from `at` on at which the window is open (or closed)."""
    return next(m for m in minutes_from(at) if plainly_open(window, zone, m) is wanted)


def minutes_from(at: datetime) -> Iterator[datetime]:
    for n in range(5 * 24 * 60):
        yield at + n * MINUTE


def check(window: Window, zone: str, at: datetime) -> None:
    """Compare the results at a whole minute with the model."""
    says = f"{window}, {zone}, {at}"
    assert is_open(window, zone, at) is plainly_open(window, zone, at), says
    opening = first(window, zone, at, True)
    assert next_opening(window, zone, at) == opening, says
    assert next_closing(window, zone, opening) == first(window, zone, opening, False), says


def some_window(chance: random.Random) -> Window:
    start, end = chance.sample(range(24 * 60), 2)
    if chance.random() < 0.3:  # short ones fall into gaps and folds
        end = (start + chance.randint(1, 90)) % (24 * 60)
    return Window(time(start // 60, start % 60), time(end // 60, end % 60))


# Zones with days (UTC) around which their clocks change or have unusual offsets.
ODD_DAYS = [
    ("Europe/Berlin", "2026-03-29"),  # 02:00 → 03:00
    ("Europe/Berlin", "2026-10-25"),  # 03:00 → 02:00
    ("Europe/Moscow", "2026-06-01"),
    ("America/Sao_Paulo", "2018-11-04"),  # 00:00 → 01:00: the day begins at 1
    ("America/Sao_Paulo", "2018-02-18"),  # 00:00 → 23:00 the day before
    ("Asia/Kathmandu", "2026-06-01"),  # + 5:45
    ("Pacific/Apia", "2011-12-30"),  # a skipped day
    ("Pacific/Apia", "2012-01-01"),
    ("Australia/Lord_Howe", "2026-04-05"),  # back by half an hour
    ("Australia/Lord_Howe", "2026-10-04"),  # ahead by half an hour
    ("Africa/Casablanca", "2026-02-15"),  # two changes around Ramadan
    ("Africa/Casablanca", "2026-03-22"),
    ("America/St_Johns", "2026-03-08"),
    ("Pacific/Kiritimati", "2026-06-01"),  # + 14
    ("Pacific/Pago_Pago", "2026-06-01"),  # − 11
    ("Antarctica/Troll", "2026-03-29"),  # by two hours
]


@pytest.mark.parametrize(("zone", "day"), ODD_DAYS)
def test_windows_agree_with_the_clock_minute_by_minute(zone: str, day: str) -> None:
    chance = random.Random(f"{zone} {day}")
    for _ in range(40):
        at = utc(day) + chance.randint(-2 * 24 * 60, 2 * 24 * 60) * MINUTE
        check(some_window(chance), zone, at)


@pytest.mark.parametrize(("zone", "day"), ODD_DAYS)
def test_window_is_open_from_opening_to_closing_only(zone: str, day: str) -> None:
    """Openings and closings of two days cover every minute exactly once."""
    chance = random.Random(f"in a row: {zone} {day}")
    window = some_window(chance)
    at, until = utc(day) - timedelta(days=1), utc(day) + timedelta(days=1)
    seen = []
    while at < until:
        opened = next_opening(window, zone, at)
        closed = next_closing(window, zone, opened)
        assert closed is not None
        seen.append((opened, closed))
        at = closed
    for minute in minutes_from(utc(day) - timedelta(days=1)):
        if minute >= until:
            break
        inside = any(opened <= minute < closed for opened, closed in seen)
        assert inside is plainly_open(window, zone, minute), f"{window}, {zone}, {minute}"


def test_missing_window_is_always_open() -> None:
    at = utc("2026-03-29T01:00")
    assert is_open(None, "Europe/Berlin", at)
    assert next_opening(None, "Europe/Berlin", at) == at
    assert next_closing(None, "Europe/Berlin", at) is None


def test_start_is_inclusive_and_end_exclusive_to_the_microsecond() -> None:
    opening, closing = utc("2026-06-01T06:00"), utc("2026-06-01T18:00")  # Moscow is at + 3
    zone = "Europe/Moscow"
    assert not is_open(OFFICE, zone, opening - MICROSECOND)
    assert is_open(OFFICE, zone, opening)
    assert is_open(OFFICE, zone, closing - MICROSECOND)
    assert not is_open(OFFICE, zone, closing)
    assert next_opening(OFFICE, zone, opening - MICROSECOND) == opening
    assert next_opening(OFFICE, zone, opening) == opening
    assert next_opening(OFFICE, zone, closing - MICROSECOND) == closing - MICROSECOND
    assert next_opening(OFFICE, zone, closing) == opening + timedelta(days=1)
    assert next_closing(OFFICE, zone, opening) == closing
    assert next_closing(OFFICE, zone, closing - MICROSECOND) == closing


def test_window_may_cross_midnight() -> None:
    zone = "Europe/Moscow"
    opening, closing = utc("2026-06-01T18:00"), utc("2026-06-02T06:00")
    assert not is_open(NIGHT, zone, opening - MICROSECOND)
    for inside in (opening, utc("2026-06-01T21:00"), utc("2026-06-02T00:00")):
        assert is_open(NIGHT, zone, inside)
        assert next_closing(NIGHT, zone, inside) == closing
    assert not is_open(NIGHT, zone, closing)
    assert next_opening(NIGHT, zone, closing) == opening + timedelta(days=1)


def test_spring_gap_in_berlin() -> None:
    zone = "Europe/Berlin"
    early = Window(time(2, 30), time(4))  # its start falls into the gap: it opens at the gap's end
    assert next_opening(early, zone, utc("2026-03-29T00:00")) == utc("2026-03-29T01:00")
    assert next_closing(early, zone, utc("2026-03-29T01:00")) == utc("2026-03-29T02:00")
    late = Window(time(1), time(2, 30))  # its end falls into the gap: it closes at the gap's start
    assert next_closing(late, zone, utc("2026-03-29T00:30")) == utc("2026-03-29T01:00")


def test_window_wholly_inside_a_gap_does_not_open_that_day() -> None:
    gap = Window(time(2, 15), time(2, 45))
    assert next_opening(gap, "Europe/Berlin", utc("2026-03-28T12:00")) == utc("2026-03-30T00:15")
    midnight = Window(time(0), time(1))
    opening = next_opening(midnight, "America/Sao_Paulo", utc("2018-11-03T12:00"))
    assert opening == utc("2018-11-05T02:00")


def test_autumn_fold_in_berlin() -> None:
    twice = Window(time(2, 15), time(2, 45))
    zone = "Europe/Berlin"
    assert next_opening(twice, zone, utc("2026-10-25T00:00")) == utc("2026-10-25T00:15")
    assert next_closing(twice, zone, utc("2026-10-25T00:15")) == utc("2026-10-25T00:45")
    assert next_opening(twice, zone, utc("2026-10-25T00:45")) == utc("2026-10-25T01:15")
    assert next_closing(twice, zone, utc("2026-10-25T01:15")) == utc("2026-10-25T01:45")


def test_gap_at_midnight_in_sao_paulo() -> None:
    zone = "America/Sao_Paulo"
    before = Window(time(22), time(0, 30))  # closes in the gap, which begins at midnight
    assert next_closing(before, zone, utc("2018-11-04T02:00")) == utc("2018-11-04T03:00")
    after = Window(time(0, 30), time(5))
    assert next_opening(after, zone, utc("2018-11-04T02:00")) == utc("2018-11-04T03:00")


def test_offset_of_three_quarters_of_an_hour_in_kathmandu() -> None:
    assert next_opening(OFFICE, "Asia/Kathmandu", utc("2026-06-01T00:00")) == utc(
        "2026-06-01T03:15"
    )
    assert next_closing(OFFICE, "Asia/Kathmandu", utc("2026-06-01T03:15")) == utc(
        "2026-06-01T15:15"
    )


def test_skipped_day_in_apia() -> None:
    """After the 29th at UTC − 10 comes the 31st at UTC + 14, with no instant in between."""
    zone = "Pacific/Apia"
    evening = utc("2011-12-30T07:00")  # the 29th, 21:00
    assert next_closing(OFFICE, zone, evening - MINUTE) == evening
    assert next_opening(OFFICE, zone, evening) == utc("2011-12-30T19:00")  # the 31st, 9:00
    # A night window continues from the one day into the other.
    assert next_closing(NIGHT, zone, evening) == utc("2011-12-30T19:00")


def test_half_hour_daylight_saving_on_lord_howe() -> None:
    zone = "Australia/Lord_Howe"
    fold = Window(time(1, 30), time(1, 45))  # 2026-04-05: 02:00 at + 11 becomes 01:30 at + 10:30
    assert next_opening(fold, zone, utc("2026-04-04T14:00")) == utc("2026-04-04T14:30")
    assert next_opening(fold, zone, utc("2026-04-04T14:45")) == utc("2026-04-04T15:00")
    gap = Window(time(2, 5), time(2, 25))  # 2026-10-04: 02:00 becomes 02:30
    assert next_opening(gap, zone, utc("2026-10-03T12:00")) == utc("2026-10-04T15:05")


def test_seconds_and_microseconds_are_respected() -> None:
    window = Window(time(9, 0, 0, 1), time(9, 0, 0, 3))
    zone, nine = "Europe/Moscow", utc("2026-06-01T06:00")
    assert next_opening(window, zone, nine) == nine + MICROSECOND
    assert next_closing(window, zone, nine + MICROSECOND) == nine + 3 * MICROSECOND
    all_day_but_one = Window(time(0), time(23, 59, 59, 999999))
    midnight = utc("2026-06-01T21:00")
    assert (
        next_closing(all_day_but_one, zone, midnight - timedelta(hours=1)) == midnight - MICROSECOND
    )
    assert next_opening(all_day_but_one, zone, midnight - MICROSECOND) == midnight
