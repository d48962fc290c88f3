"""Windows of every time zone in ten years, compared with a wall clock that is read each minute.

The long form reads every minute of the ten years; the short one reads some days of each zone, most
of them around changes of its clock. Zones with the same rules under several names are read once; in
the long form also those whose offsets agree at each quarter of an hour of these years.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from shared.domain.send_windows import Window, is_open, next_closing, next_opening
from shared.domain.time_zones import RULES_VERSION, TIME_ZONES
from tests.chaos.run_options import LONG, scenario_random
from tests.support.zone_rules import (
    CHANGED_ZONES,
    OLD_VERSION,
    PINNED_RULES,
    use_old_rules,
)

YEARS = datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
MINUTE, QUARTER, DAY = timedelta(minutes=1), timedelta(minutes=15), timedelta(days=1)
# Shorter than the time between two changes of any clock in these years.
CHANGE_STEP = timedelta(hours=6)
SPANS_PER_ZONE = 2

Span = tuple[datetime, datetime]


def distinct_zones() -> list[str]:
    """Return one name for each set of rules, and every zone whose rules differ by version."""
    by_rules: dict[bytes, str] = {}
    for zone in sorted(TIME_ZONES):
        by_rules.setdefault((PINNED_RULES / zone).read_bytes(), zone)
    zones = sorted(by_rules.values())
    if LONG:
        by_clock: dict[str, str] = {}
        for zone in zones:
            by_clock.setdefault(hash_offsets(ZoneInfo(zone)), zone)
        zones = list(by_clock.values())
    return sorted({*zones, *CHANGED_ZONES})


def hash_offsets(zone: ZoneInfo) -> str:
    """Return a hash of the zone's offsets at each quarter of an hour of the years."""
    changes, at, offset = hashlib.sha256(), YEARS[0], None
    while at < YEARS[1]:
        if (present := at.astimezone(zone).utcoffset()) != offset:
            offset = present
            changes.update(f"{at} {offset}".encode())
        at += QUARTER
    return changes.hexdigest()


def make_windows(chance: random.Random) -> list[Window]:
    """Return windows of the day, of the night, and a short one where clocks often change."""
    start = chance.randrange(0, 4 * 60)
    end = start + chance.randrange(1, 120)
    short = Window(time(start // 60, start % 60), time(end // 60, end % 60))
    return [Window(time(9), time(21)), Window(time(22, 30), time(7, 15)), short]


def find_spans(zone: ZoneInfo, chance: random.Random, count: int) -> list[Span]:
    """Return spans of two days: around changes of the zone's clock, and at any time."""
    at, until = YEARS
    changes, offset = [], at.astimezone(zone).utcoffset()
    while at < until:
        at += CHANGE_STEP
        if (present := at.astimezone(zone).utcoffset()) != offset:
            changes.append(at)
            offset = present
    changes = chance.sample(changes, min(count - 1, len(changes)))
    days = [YEARS[0] + chance.randrange(3600) * DAY for _ in range(count - len(changes))]
    middles = [*changes, *days]
    return [(max(YEARS[0], middle - DAY), min(YEARS[1], middle + DAY)) for middle in middles]


def read_clock(zone: ZoneInfo, span: Span) -> Iterator[tuple[datetime, int]]:
    """Yield each minute with what a wall clock shows then, in minutes since midnight."""
    at, until = span
    while at < until:
        wall = at.astimezone(zone)
        yield at, wall.hour * 60 + wall.minute
        at += MINUTE


def find_runs(
    zone: ZoneInfo, span: Span, windows: list[Window]
) -> list[list[tuple[datetime, datetime, bool]]]:
    """Return, for each window, the runs of minutes in which the wall clock shows it (not) open."""
    minutes = [time(n // 60, n % 60) for n in range(24 * 60)]
    shown = [tuple(shows_open(window, minute) for window in windows) for minute in minutes]
    runs: list[list[tuple[datetime, datetime, bool]]] = [[] for _ in windows]
    states: tuple[bool, ...] = ()
    since = [span[0]] * len(windows)
    for at, minute in read_clock(zone, span):
        if shown[minute] == states:
            continue
        for n, state in enumerate(states):
            if state != shown[minute][n]:
                runs[n].append((since[n], at, state))
                since[n] = at
        states = shown[minute]
    return runs


def shows_open(window: Window, wall: time) -> bool:
    start, end = window.start, window.end
    return start <= wall < end if start < end else wall >= start or wall < end


def check_run(
    window: Window, zone: str, first: datetime, end: datetime, state: bool, chance: random.Random
) -> None:
    """Compare the results with a run, at its first minute, at its last and at one in between."""
    last = end - MINUTE
    for at in {first, last, first + chance.randrange((end - first) // MINUTE) * MINUTE}:
        says = f"{window}, {zone}, {at.isoformat()}"
        assert is_open(window, zone, at) is state, says
        if state:
            assert next_opening(window, zone, at) == at, says
            assert next_closing(window, zone, at) == end, says
        else:
            assert next_opening(window, zone, at) == end, says


@pytest.mark.parametrize("version", [OLD_VERSION, RULES_VERSION])
def test_windows_of_every_zone_agree_with_the_clock(version: str) -> None:
    chance = scenario_random(f"window rules {version}")
    # The rules of other zones are the same in both versions.
    zones = CHANGED_ZONES if version == OLD_VERSION else distinct_zones()
    runs = 0
    with use_old_rules() if version == OLD_VERSION else nullcontext():
        for zone in zones:
            windows = make_windows(chance)
            clock = ZoneInfo(zone)
            spans_per_zone = SPANS_PER_ZONE * (5 if zone in CHANGED_ZONES else 1)
            spans = [YEARS] if LONG else find_spans(clock, chance, spans_per_zone)
            for span in spans:
                for window, found in zip(windows, find_runs(clock, span, windows), strict=True):
                    for first, end, state in found:
                        check_run(window, zone, first, end, state, chance)
                        runs += 1
    print(f"{version}: {len(zones)} zones, {runs:,} openings and closings compared")


def test_both_versions_differ_in_every_changed_zone() -> None:
    """Otherwise the tests with two versions would test one."""
    for zone in CHANGED_ZONES:
        pinned = read_offsets(zone)
        with use_old_rules():
            assert read_offsets(zone) != pinned, zone


def read_offsets(zone: str) -> list[timedelta | None]:
    hours = (YEARS[1] - YEARS[0]) // CHANGE_STEP
    clock = ZoneInfo(zone)
    return [(YEARS[0] + n * CHANGE_STEP).astimezone(clock).utcoffset() for n in range(hours)]
