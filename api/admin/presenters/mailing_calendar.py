"""The calendar of mailings: a month of days, the mailings that start on each, and its load.

The load of a day is the messages of the mailings that start on it, and how long the provider needs
for them. How many a scheduled mailing will have is known at its launch only; until then the counts
of recipient_choices.py give an upper bound.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import current_app
from flask_babel import get_timezone
from sqlalchemy import text

from api.admin.presenters.mailing_list import day_start
from api.db import fetch_all, limited_search
from api.mailings.recipient_choices import Choices, list_choices

MAX_MAILINGS = 1000
DAY_SECONDS = 86_400
OF_MONTH = text("""
SELECT id, name, text, status, start_at, coalesce(finished_at, end_at) AS ends_at, audience,
    started_at IS NOT NULL AS launched, operator_codes, tags, timezones, phones,
    window_from, window_to, rate_limit
FROM mailings
WHERE deleted_at IS NULL AND start_at < :until AND coalesce(finished_at, end_at) >= :since
ORDER BY start_at, id LIMIT :most
""")


class Day(NamedTuple):
    """A day of the calendar: the mailings that start on it, how many go on, and its load.

    `bounded` if some of the messages are an upper bound. `seconds` is how long the provider needs
    for them, out of `available` seconds in which they may be sent; None without a rate.
    """

    day: date
    in_month: bool
    starting: list[dict[str, Any]]
    continuing: int
    messages: int
    bounded: bool
    seconds: float | None
    available: int

    @property
    def share(self) -> float:
        """Which part of the available time the messages take."""
        return 0.0 if self.seconds is None else self.seconds / self.available


class Month(NamedTuple):
    """The days of whole weeks around a month, and the months beside it."""

    first: date
    days: list[Day]
    previous: str
    following: str
    incomplete: bool


def build_month(first: date) -> Month:
    """Return the calendar of the month that begins on `first`.

    Raise InvalidFields if the mailings take too long to read.
    """
    following = (first + timedelta(days=31)).replace(day=1)
    begins = first - timedelta(days=first.weekday())
    weeks = -(-((following - begins).days) // 7)
    with limited_search("month"):
        values = {"since": day_start(begins), "most": MAX_MAILINGS + 1}
        until = day_start(begins + timedelta(days=7 * weeks))
        rows = fetch_all(OF_MONTH, until=until, **values)
    choices = list_choices()
    for row in rows:
        row["messages"], row["bounded"] = _expect_messages(row, choices)
    shown = [begins + timedelta(days=n) for n in range(7 * weeks)]
    days = [_build_day(day, first.month, rows[:MAX_MAILINGS]) for day in shown]
    previous = (first - timedelta(days=1)).replace(day=1)
    return Month(first, days, f"{previous:%Y-%m}", f"{following:%Y-%m}", len(rows) > MAX_MAILINGS)


def _build_day(day: date, month: int, rows: Sequence[Mapping[str, Any]]) -> Day:
    begins, ends = day_start(day), day_start(day + timedelta(days=1))
    starting = [dict(row) for row in rows if begins <= row["start_at"] < ends]
    continuing = sum(row["start_at"] < begins <= row["ends_at"] for row in rows)
    counted = [row for row in starting if row["status"] != "cancelled" or row["launched"]]
    rate = current_app.config["PROVIDER_RATE"]
    seconds = None
    if rate:
        seconds = sum(row["messages"] / min(rate, row["rate_limit"] or rate) for row in counted)
    return Day(
        day,
        day.month == month,
        starting,
        continuing,
        sum(row["messages"] for row in counted),
        any(row["bounded"] for row in counted),
        seconds,
        max((_window_seconds(row) for row in counted), default=DAY_SECONDS),
    )


def _expect_messages(row: Mapping[str, Any], choices: Choices) -> tuple[int, bool]:
    """Return the messages of a mailing, and whether they are an upper bound."""
    if row["launched"]:
        return row["audience"], False
    bounds = [sum(choice.clients for choice in choices.get("timezones", []))]
    for field in ("operator_codes", "tags", "timezones"):
        counts = {choice.value: choice.clients for choice in choices.get(field, [])}
        if row[field]:
            bounds.append(sum(counts.get(value, 0) for value in row[field]))
    if row["phones"]:
        bounds.append(len(row["phones"]))
    return min(bounds), True


def _window_seconds(row: Mapping[str, Any]) -> int:
    begins, ends = row["window_from"], row["window_to"]
    if begins is None:
        return DAY_SECONDS
    minutes = (ends.hour - begins.hour) * 60 + ends.minute - begins.minute
    return 60 * (minutes % 1440 or 1440)


def read_month(given: str, now: datetime) -> date:
    """Return the first day of a month such as 2030-12; of the present one for anything else."""
    try:
        found = date.fromisoformat(f"{given}-01").replace(day=1)
    except ValueError:
        found = None
    # Mailings start in these years; in others a calendar has no months beside this one.
    if found is None or not 1970 <= found.year < 2200:
        return local_day(now).replace(day=1)
    return found


def local_day(instant: datetime) -> date:
    """Return the day of an instant in the viewer's time zone."""
    return instant.astimezone(ZoneInfo(str(get_timezone() or UTC))).date()
