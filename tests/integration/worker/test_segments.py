"""Segments that were sent equal a recount of what the provider received."""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.domain.segments import measure_segments
from tests.support.system import System
from tests.support.waiting import wait_for

CLIENTS = 300
GSM = "Only today: everything at half the price. " * 4  # two segments
CYRILLIC = "Только сегодня: все товары за полцены, приходите. " * 2  # two segments
PERSONAL = "{name|Dear client}, " + "x" * 60  # one or two segments, by the name


@pytest.fixture(scope="module")
def system(system: System) -> Iterator[System]:
    system.add_clients(CLIENTS)
    with system.database() as cursor:
        cursor.execute(
            """UPDATE clients SET attributes = jsonb_build_object('name', CASE id % 3
                WHEN 0 THEN 'Анна Константиновна' WHEN 1 THEN 'Eva' ELSE repeat('Yan€', 25) END)
            WHERE id % 5 > 0"""
        )
    yield system
    system.provider.reset()


def received_segments(system: System, mailing_id: int, *, accepted: bool) -> int:
    """Recount: each message once, by whether the service knows that it was accepted."""
    known = dict(
        system.query(
            "SELECT id, status = 'sent' FROM messages WHERE mailing_id = %s"
            " AND (status = 'sent' OR in_doubt)",
            mailing_id,
        )
    )
    texts = {row["id"]: row["text"] for row in system.provider.requests() if row["id"] in known}
    return sum(
        measure_segments(text).segments for id_, text in texts.items() if known[id_] == accepted
    )


@pytest.mark.parametrize("text", [GSM, CYRILLIC, PERSONAL], ids=["gsm", "cyrillic", "personal"])
def test_segments_equal_what_the_provider_received(system: System, text: str) -> None:
    """With repeats, acceptances that got lost, and a worker that is killed."""
    stuck = [row[0] for row in system.query("SELECT phone FROM clients ORDER BY id LIMIT 7")]
    system.provider.set(
        latency=0.02,
        faults={"error_503": 0.1, "reset_after": 0.1},
        phones=dict.fromkeys(stuck, "reset_after"),
    )
    mailing_id = system.create_mailing(text=text, rate_limit=200)
    wait_for(lambda: system.statistics(mailing_id)["counts"]["sent"] > 50, 60, "some are sent")
    if text == PERSONAL:  # what it may have sent is measured by its successor
        system["dispatch-1"].kill()
        system["dispatch-1"].start()
    wait_for(
        lambda: system.statistics(mailing_id)["counts"]["sent"] == CLIENTS - len(stuck),
        90,
        "all that can be sent are",
    )
    system.call("POST", f"/mailings/{mailing_id}/cancel")
    wait_for(
        lambda: system.statistics(mailing_id)["counts"]["cancelled"] == len(stuck), 60, "settled"
    )
    found = system.statistics(mailing_id)
    assert found["in_doubt"] == len(stuck)
    assert found["segments"] == {
        "sent": received_segments(system, mailing_id, accepted=True),
        "in_doubt": received_segments(system, mailing_id, accepted=False),
    }
    assert found["segments"]["sent"] > 0
    days = days_of(system, mailing_id)
    assert {name: sum(day["segments"][name] for day in days) for name in ("sent", "in_doubt")} == (
        found["segments"]
    )
    system.check_totals()


def days_of(system: System, mailing_id: int) -> list[dict[str, Any]]:
    """Return the days on which the mailing may have sent something."""
    ((first, last),) = system.query("SELECT current_date - 1, current_date + 1")
    query = {"since": str(first), "until": str(last), "mailing_id": mailing_id}
    items: list[dict[str, Any]] = system.call("GET", "/statistics/days", params=query)["items"]
    assert len(items) == 3
    return items


def test_test_sends_are_counted_apart(system: System) -> None:
    system.provider.reset()
    body = {"text": "x" * 161, "phones": ["79990000001", "79990000002"]}
    before = sum_tests(system)
    system.call("POST", "/mailings/test-send", json=body)
    assert sum_tests(system) - before == 4


def sum_tests(system: System) -> int:
    ((first, last),) = system.query("SELECT current_date - 1, current_date + 1")
    query = {"since": str(first), "until": str(last)}
    days = system.call("GET", "/statistics/days", params=query)["items"]
    return sum(day["test_segments"] for day in days)
