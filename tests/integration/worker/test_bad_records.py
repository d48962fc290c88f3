"""Clients that nothing can be sent to, beside others, with real processes."""

from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from tests.support.system import System
from tests.support.waiting import wait_for

HOUR = datetime.now(ZoneInfo("Europe/Moscow")).hour
OPEN = {"from": f"{(HOUR - 2) % 24:02}:00", "to": f"{(HOUR + 2) % 24:02}:00"}
INSERT = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 78500000000 + n + %s, '950', %s, CASE WHEN n %% 10 = 0 THEN %s ELSE 'Europe/Moscow' END,
    CASE WHEN n %% 10 = 0 THEN %s::jsonb ELSE '{"name": "Anna"}' END
FROM generate_series(1, 200) AS n
"""


@pytest.fixture(autouse=True)
def reset_provider(system: System) -> Iterator[None]:
    system.provider.reset()
    yield
    system.provider.reset()
    system.check_totals()


def add_clients(system: System, first: int, tag: str, zone: str, attributes: str) -> None:
    with system.database() as cursor:
        cursor.execute(INSERT, (first, tag, zone, attributes))


def reasons(system: System, mailing_id: int) -> list[tuple[str, str | None, int]]:
    return system.query(
        "SELECT status::text, reason, count(*) FROM messages WHERE mailing_id = %s"
        " GROUP BY 1, 2 ORDER BY 1",
        mailing_id,
    )


def assert_dispatch_did_not_fail(system: System) -> None:
    for name in (*system.dispatchers, "control"):
        assert '"job.failed"' not in system[name].log.read_text()


def test_clients_of_an_unknown_zone_fail_with_a_reason_and_the_others_are_sent(
    system: System,
) -> None:
    add_clients(system, 0, "mars", "Mars/Phobos", "{}")
    system.add_clients(2_000, "beside")
    mailing = system.create_mailing(filter={"tags": ["mars"]}, window=OPEN)
    beside = system.create_mailing(filter={"tags": ["beside"]}, window=OPEN)
    system.wait_finished(mailing)
    assert reasons(system, mailing) == [
        ("failed", "time zone unknown", 20),
        ("sent", None, 180),
    ]
    assert system.wait_finished(beside)["counts"]["sent"] == 2_000
    assert system.provider.stats()["duplicates"] == 0
    assert_dispatch_did_not_fail(system)


def test_without_a_window_the_zone_does_not_matter(system: System) -> None:
    mailing = system.create_mailing(filter={"tags": ["mars"]})
    assert system.wait_finished(mailing)["counts"]["sent"] == 200


def test_a_window_set_during_sending_ends_the_messages_of_an_unknown_zone(system: System) -> None:
    mailing = system.create_mailing(filter={"tags": ["mars"]}, rate_limit=20)
    wait_for(lambda: system.statistics(mailing)["counts"]["sent"] > 5, 10)
    system.call("PATCH", f"/mailings/{mailing}", json={"window": OPEN, "rate_limit": None})
    counts = system.wait_finished(mailing)["counts"]
    assert counts["sent"] + counts["failed"] == 200
    assert counts["sent"] >= 180
    assert {reason for status, reason, _ in reasons(system, mailing) if status == "failed"} <= {
        "time zone unknown"
    }
    assert_dispatch_did_not_fail(system)


def test_unusable_data_of_clients_fails_their_messages_only(system: System) -> None:
    add_clients(system, 1_000_000, "unusable", "Europe/Moscow", '{"name": 5}')
    mailing = system.create_mailing(text="Hello {name}", filter={"tags": ["unusable"]})
    system.wait_finished(mailing)
    assert reasons(system, mailing) == [
        ("failed", "client data unusable", 20),
        ("sent", None, 180),
    ]
    assert_dispatch_did_not_fail(system)


def test_a_retry_of_the_failed_messages_fails_again_and_harms_nothing(system: System) -> None:
    (mailing,) = system.query("SELECT min(mailing_id) FROM messages WHERE status = 'failed'")[0]
    system.call("POST", f"/mailings/{mailing}/retry-failed")
    assert system.wait_finished(mailing)["counts"]["failed"] == 20
    assert_dispatch_did_not_fail(system)
