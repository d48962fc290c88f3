"""A client whose time zone the workers do not know, and other records that cannot be handled.

Each such record fails by itself, with a reason where it has one; the work beside it goes on.
"""

from datetime import UTC, datetime, time, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest
from redis import Redis

from shared.db import status_changes
from shared.domain.send_windows import UnknownTimeZone, Window, is_open, next_due
from shared.queues import Queues
from shared.report import daily
from shared.report.figures import read_day_figures
from tests.support.fleet import TAKEOVER_SECONDS, Fleet
from worker.maintenance import imports, retention, sweep
from worker.maintenance.sweep import sweep_mailings
from worker.recording.mailing_state import apply_mailing_state

UNKNOWN = "Mars/Phobos"
ALL_DAY: dict[str, Any] = {"window_from": time(0), "window_to": time(23, 59, 59, 999999)}


@pytest.fixture
def queues(redis_url: str) -> Queues:
    return Queues(Redis.from_url(redis_url))


def add_mailing_with_unknown_zone(fleet: Fleet, count: int = 4, **columns: Any) -> int:
    """Add a launched mailing: half of its clients are in Moscow, the others on Mars."""
    tag = f"zones {fleet.query_value('SELECT count(*) FROM mailings')}"
    fleet.add_clients(count, ("Europe/Moscow", UNKNOWN), tag)
    mailing_id = fleet.add_mailing(tags=[tag], **{**ALL_DAY, **columns})
    fleet.launch_mailing(mailing_id)
    return mailing_id


def due_by_zone(fleet: Fleet, mailing_id: int) -> dict[str, bool]:
    return dict(
        fleet.query(
            "SELECT timezone, due_at <= now() FROM batches WHERE mailing_id = %s", mailing_id
        )
    )


@pytest.mark.parametrize("zone", [UNKNOWN, "Europe", "../etc/passwd", "", "\0", "Europe/Moscow/x"])
def test_any_name_that_is_no_zone_is_an_unknown_one(zone: str) -> None:
    now = datetime.now(UTC)
    window = Window(time(9), time(18))
    with pytest.raises(UnknownTimeZone):
        is_open(window, zone, now)
    assert next_due(window, zone, now) == now
    assert is_open(None, zone, now)


def test_a_launch_makes_the_messages_of_an_unknown_zone_due_at_once(fleet: Fleet) -> None:
    mailing_id = add_mailing_with_unknown_zone(fleet)
    assert due_by_zone(fleet, mailing_id) == {"Europe/Moscow": True, UNKNOWN: True}
    assert fleet.read_mailing(mailing_id)["audience_complete"]


def test_a_change_of_the_window_reschedules_the_other_zones(fleet: Fleet) -> None:
    mailing_id = add_mailing_with_unknown_zone(fleet)
    hour = (datetime.now(UTC) + timedelta(hours=3)).hour
    closed = time((hour + 6) % 24), time((hour + 7) % 24)
    fleet.query(
        "UPDATE mailings SET window_from = %s, window_to = %s WHERE id = %s", *closed, mailing_id
    )
    with fleet.db.transaction() as cursor:
        status_changes.reschedule_batches(cursor, mailing_id)
    assert due_by_zone(fleet, mailing_id) == {"Europe/Moscow": False, UNKNOWN: True}


def test_a_client_may_move_to_an_unknown_zone(fleet: Fleet) -> None:
    (client_id,) = fleet.add_clients(1, tag="moves to Mars")
    mailing_id = fleet.add_mailing(tags=["moves to Mars"], **ALL_DAY)
    fleet.launch_mailing(mailing_id)
    with fleet.db.transaction() as cursor:
        assert status_changes.move_client_messages(cursor, {client_id: UNKNOWN}) == 1
    assert due_by_zone(fleet, mailing_id)[UNKNOWN]


def test_the_sweep_ends_a_mailing_with_an_unknown_zone_and_those_behind_it(
    fleet: Fleet, queues: Queues
) -> None:
    with_unknown = add_mailing_with_unknown_zone(fleet)
    behind = fleet.add_launched_mailing(3)
    for mailing_id in (with_unknown, behind):
        fleet.end_mailing(mailing_id)
    sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    assert fleet.count_statuses(with_unknown) == {"expired": 4}
    assert fleet.count_statuses(behind) == {"expired": 3}


def test_a_failure_with_one_mailing_does_not_keep_the_sweep_from_the_others(
    fleet: Fleet, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, refused, behind = (fleet.add_launched_mailing(2) for _ in range(3))
    for mailing_id in (broken, refused, behind):
        fleet.end_mailing(mailing_id)

    def fail_for_two(db: Any, mailing_id: int, *args: Any) -> int:
        if mailing_id == broken:
            raise KeyError("defect")
        if mailing_id == refused:
            with db.transaction() as cursor:
                cursor.execute("SET LOCAL statement_timeout = '1ms'; SELECT pg_sleep(1)")
        return apply_mailing_state(db, mailing_id, *args)

    monkeypatch.setattr(sweep, "apply_mailing_state", fail_for_two)
    sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    assert fleet.count_statuses(behind) == {"expired": 2}
    assert fleet.count_statuses(broken) == {"pending": 2}
    monkeypatch.undo()
    sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    assert fleet.count_statuses(broken) == fleet.count_statuses(refused) == {"expired": 2}


def test_the_sweep_stops_at_an_outage(
    fleet: Fleet, queues: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for mailing_id in [fleet.add_launched_mailing(1) for _ in range(2)]:
        fleet.end_mailing(mailing_id)

    def fail(db: Any, mailing_id: int, *args: Any) -> int:
        tried.append(mailing_id)
        raise psycopg2.OperationalError("connection refused")

    monkeypatch.setattr(sweep, "apply_mailing_state", fail)
    with pytest.raises(psycopg2.OperationalError):
        sweep_mailings(fleet.db, queues, TAKEOVER_SECONDS)
    assert len(tried) == 1


def test_the_report_counts_mailings_with_an_unknown_zone(fleet: Fleet) -> None:
    mailing_id = add_mailing_with_unknown_zone(fleet)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(accepted=worker.ids)
    with fleet.db.transaction() as cursor:
        figures = read_day_figures(cursor, datetime.now(UTC).date(), "UTC")
    (found,) = [mailing for mailing in figures.mailings if mailing.id == mailing_id]
    assert found.sent == len(worker.ids)
    assert found.median is not None


def test_a_day_whose_report_cannot_be_made_waits_and_lets_the_others_be_sent(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC).date()
    bad, good = today - timedelta(days=2), today - timedelta(days=1)
    settings: Any = SimpleNamespace(
        report_time=time(0),
        report_timezone="UTC",
        report_recipients=["a@example.com"],
        smtp_url="x",
    )
    fleet.query("INSERT INTO daily_reports (day, status) VALUES (%s, 'skipped')", bad)
    fleet.query("DELETE FROM daily_reports WHERE day = %s", bad)
    fleet.query(
        "INSERT INTO daily_reports (day, status) VALUES (%s, 'skipped')", today - timedelta(days=9)
    )

    def fail(*_: Any) -> Any:
        raise KeyError("a figure")

    monkeypatch.setattr(daily, "read_figures", fail)
    due = daily.find_due_days(fleet.db.transaction, settings)
    assert due[-1] == good
    for waits in (60, 120, 240):
        with pytest.raises(KeyError):
            daily.send_report(fleet.db.transaction, settings, due[0])
        left = fleet.query_value(
            "SELECT extract(epoch FROM due_at - now())::float8 FROM daily_reports WHERE day = %s",
            due[0],
        )
        assert waits - 5 < left <= waits
    assert due[0] not in daily.find_due_days(fleet.db.transaction, settings)
    assert daily.find_due_days(fleet.db.transaction, settings) == due[1:]
    fleet.query("DELETE FROM daily_reports")


def test_an_import_that_meets_a_defect_fails_and_is_not_repeated(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("a row")

    import_id = fleet.query_value("INSERT INTO imports (status) VALUES ('running') RETURNING id")
    monkeypatch.setattr(imports, "merge_chunk", fail)
    assert imports.merge_import_slice(fleet.db, import_id) is False
    status = "SELECT status FROM imports WHERE id = %s"
    assert fleet.query_value(status, import_id) == "failed"


def test_retention_drops_the_ranges_behind_one_that_cannot_be_dropped(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_partition = retention._drop_partition

    def fail_for_first(cursor: Any, table: str, first: int) -> None:
        if first == 1:
            cursor.execute("SELECT no_such_column")
        drop_partition(cursor, table, first)

    monkeypatch.setattr(retention, "_drop_partition", fail_for_first)
    with fleet.db.autocommit() as cursor:
        assert retention._drop_partitions(cursor, [1, 900_000]) == {900_000}
