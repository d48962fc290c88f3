"""Due times that were computed by older time zone rules follow the new ones."""

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from structlog.testing import capture_logs

from shared.domain.send_windows import Window, next_opening
from shared.domain.time_zones import RULES_VERSION, TIME_ZONES
from tests.support.fleet import Fleet
from tests.support.zone_rules import (
    CHANGED_ZONES,
    OLD_VERSION,
    PINNED_RULES,
    old_rules,
    use_rules,
)
from worker.maintenance.zone_rules import apply_zone_rules

# Zones that have the rules of another one in `other_rules`, so that their clocks always differ.
VANCOUVER = "America/Vancouver"
OTHER_ZONES = {VANCOUVER: "Asia/Tokyo", "Asia/Omsk": "Europe/Moscow"}


@pytest.fixture(autouse=True)
def fresh_rules(fleet: Fleet) -> None:
    """Begin as an installation whose rules have not changed for long."""
    set_rules(fleet, OLD_VERSION)


@pytest.fixture
def other_rules(tmp_path: Path) -> Path:
    for zone, other in OTHER_ZONES.items():
        (tmp_path / zone).parent.mkdir(exist_ok=True)
        (tmp_path / zone).write_bytes((PINNED_RULES / other).read_bytes())
    return tmp_path


def set_rules(fleet: Fleet, version: str, age: str = "1 day") -> None:
    fleet.query(
        "UPDATE time_zone_rules SET version = %s, applied_at = now() - %s::interval", version, age
    )


def future_window(hours: int = 6) -> Window:
    """Return a window of an hour that opens some hours from now in Vancouver."""
    opens = (datetime.now(ZoneInfo(VANCOUVER)) + timedelta(hours=hours)).replace(minute=0)
    return Window(time(opens.hour), time((opens.hour + 1) % 24))


def launch_by(rules: Path, fleet: Fleet, zones: Iterable[str], window: Window) -> int:
    """Launch a mailing to one client of each zone, as a worker with other rules."""
    zones = list(zones)
    tag = f"zones {datetime.now(UTC)}"
    fleet.add_clients(len(zones), zones, tag)
    mailing_id = fleet.add_mailing(
        ends_in=10 * 86400, tags=[tag], window_from=window.start, window_to=window.end
    )
    with use_rules(rules):
        fleet.launch_mailing(mailing_id)
    return mailing_id


def due_times(fleet: Fleet, mailing_id: int) -> dict[str, datetime]:
    return dict(
        fleet.query("SELECT timezone, due_at FROM batches WHERE mailing_id = %s", mailing_id)
    )


def find_wrong(due: dict[str, datetime], window: Window) -> dict[str, datetime]:
    """Return the zones that do not wait for the next opening by this process's rules."""
    now = datetime.now(UTC)
    before = now - timedelta(minutes=1)
    return {
        zone: at
        for zone, at in due.items()
        if at > now and at != next_opening(window, zone, before)
    }


@pytest.mark.parametrize("rules", ["2025b", "other"])
def test_waiting_batches_of_every_zone_follow_the_new_rules(
    fleet: Fleet, rules: str, other_rules: Path
) -> None:
    window = future_window()
    with old_rules() as folder:
        folder = folder if rules == "2025b" else other_rules
        mailing_id = launch_by(folder, fleet, sorted(TIME_ZONES), window)
    by_old_rules = due_times(fleet, mailing_id)
    with capture_logs() as lines:
        changed = apply_zone_rules(fleet.db, RULES_VERSION)
    due = due_times(fleet, mailing_id)
    assert due.keys() == TIME_ZONES
    assert not find_wrong(due, window)
    moved = {zone for zone in due if due[zone] != by_old_rules[zone]}
    assert changed == len(moved)
    if rules == "other":
        assert moved == set(OTHER_ZONES)
        assert [line["event"] for line in lines] == ["mailing.rescheduled", "time_zones.applied"]
        assert (lines[1]["version"], lines[1]["previous"]) == (RULES_VERSION, OLD_VERSION)
    else:
        assert moved <= set(CHANGED_ZONES)  # in summer, some have the same clock in both versions


def test_rules_that_were_applied_long_ago_cost_one_query(fleet: Fleet, other_rules: Path) -> None:
    set_rules(fleet, RULES_VERSION)
    mailing_id = launch_by(other_rules, fleet, [VANCOUVER], future_window())
    before = due_times(fleet, mailing_id)
    assert apply_zone_rules(fleet.db, RULES_VERSION) == 0
    assert due_times(fleet, mailing_id) == before


def test_what_old_workers_write_after_the_change_is_recomputed_too(
    fleet: Fleet, other_rules: Path
) -> None:
    """During a rolling upgrade, dispatchers of the old version give batches back."""
    apply_zone_rules(fleet.db, RULES_VERSION)
    launch_by(other_rules, fleet, [VANCOUVER], future_window())
    assert apply_zone_rules(fleet.db, RULES_VERSION) == 1
    assert apply_zone_rules(fleet.db, RULES_VERSION) == 0


def test_backoff_still_holds_and_due_batches_stay_as_they_are(
    fleet: Fleet, other_rules: Path
) -> None:
    mailing_id = launch_by(other_rules, fleet, [VANCOUVER, "Europe/Moscow"], future_window())
    fleet.query(
        "UPDATE batches SET retry_at = now() + interval '9 days' WHERE mailing_id = %s"
        " AND timezone = %s",
        mailing_id,
        VANCOUVER,
    )
    fleet.query(
        "UPDATE batches SET due_at = now() - interval '1 hour' WHERE mailing_id = %s"
        " AND timezone = 'Europe/Moscow'",
        mailing_id,
    )
    before = due_times(fleet, mailing_id)
    assert apply_zone_rules(fleet.db, RULES_VERSION) == 1
    after = due_times(fleet, mailing_id)
    assert after["Europe/Moscow"] == before["Europe/Moscow"]
    retry_at = fleet.query_value(
        "SELECT retry_at FROM batches WHERE mailing_id = %s AND timezone = %s",
        mailing_id,
        VANCOUVER,
    )
    assert after[VANCOUVER] == retry_at


def test_rolled_back_version_is_recomputed_as_well(fleet: Fleet, other_rules: Path) -> None:
    apply_zone_rules(fleet.db, "2027a")
    launch_by(other_rules, fleet, [VANCOUVER], future_window())
    assert apply_zone_rules(fleet.db, RULES_VERSION) == 1
    assert fleet.query_value("SELECT version FROM time_zone_rules") == RULES_VERSION
