"""Ends and windows pass while messages are being sent."""

import time
from datetime import datetime
from zoneinfo import ZoneInfo

from tests.chaos.conftest import Observe
from tests.chaos.observer import Observer
from tests.chaos.run_options import short_or_long
from tests.support.system import System, rfc3339
from tests.support.waiting import wait_for

REASONS = """
SELECT reason, count(*) FROM messages WHERE mailing_id = %s AND status = 'expired' GROUP BY 1
"""


def test_end_expires_unsent_messages_and_awaits_answers(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.4)
    with observe("the end passes while sending") as observer:
        mailing = observer.create_mailing(short_or_long(3_000, 8_000), lasts=4.0)
        end = read_end(system, mailing)
        done = system.wait_finished(mailing, 20)
        settled_after = time.time() - end
        counts = done["counts"]
        assert counts["sent"] > 100
        assert counts["expired"] == done["audience"] - counts["sent"] > 100
        assert dict(system.query(REASONS, mailing)) == {
            "the mailing ended first": counts["expired"]
        }
        # The answers to requests in flight at the end were awaited: nothing is in doubt.
        assert done["in_doubt"] == 0
        accepted = {row["id"] for row in observer.find_requests() if row["accepted"]}
        assert len(accepted) == counts["sent"]
        observer.result.recovery_s = settled_after
        assert settled_after < 4


def test_end_while_the_provider_hangs_leaves_messages_in_doubt(
    system: System, observe: Observe
) -> None:
    system.provider.set(latency=0.05, faults={"accepted_hang": 0.3})
    with observe("the end passes while answers are missing") as observer:
        mailing = observer.create_mailing(short_or_long(1_500, 5_000), lasts=3.0)
        end = read_end(system, mailing)
        done = system.wait_finished(mailing, 30)
        observer.result.recovery_s = time.time() - end
        assert done["counts"]["expired"] > 0
        # Accepted by the provider without an answer: the observer checks each message.
        assert done["in_doubt"] > 0


def test_moved_end_applies_to_a_running_mailing(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.2)
    with observe("PATCH of end_at in mid-flight, nearer and farther") as observer:
        nearer = observer.create_mailing(short_or_long(2_000, 6_000))
        farther = observer.create_mailing(600, lasts=4.0)
        observer.wait_for_requests(50)
        moved = time.time() + 3.2
        system.call("PATCH", f"/mailings/{nearer}", json={"end_at": rfc3339(moved)})
        system.call("PATCH", f"/mailings/{farther}", json={"end_at": rfc3339(moved + 600)})
        done = system.wait_finished(nearer, 20)
        observer.result.recovery_s = time.time() - moved
        assert done["counts"]["expired"] > 0
        done = system.wait_finished(farther, 30)
        assert done["counts"]["sent"] == done["audience"]


def test_closed_window_stops_sending(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.2)
    with observe("the window closes in mid-mailing") as observer:
        mailing = observer.create_mailing(
            short_or_long(4_000, 8_000), zones=("Asia/Kathmandu", "Europe/Moscow"), starts_in=1.5
        )
        closes = time.time() + 6.0
        set_window(system, observer, mailing, "Asia/Kathmandu", closes - 3600, closes)
        wait_for(lambda: time.time() > closes + 1.0, 20, "the window to close")
        counts = system.statistics(mailing)["counts"]
        assert 0 < counts["sent"] < count_in_zone(system, mailing, "Asia/Kathmandu")
        last = max(row["at"] for row in observer.find_requests())
        observer.result.details["last arrival after the close, ms"] = round(
            (last - closes) * 1000, 1
        )
        time.sleep(short_or_long(0.5, 5.0))
        assert system.statistics(mailing)["counts"]["sent"] == counts["sent"]
        system.call("POST", f"/mailings/{mailing}/cancel")
        system.wait_finished(mailing, 20)
        wait_for(lambda: is_settled(system, mailing), 20, "the mailing to be settled")


def test_sending_starts_when_the_window_opens(system: System, observe: Observe) -> None:
    system.provider.set(latency=0.05)
    with observe("a window opens") as observer:
        zones = ("America/Sao_Paulo", "Pacific/Apia")
        mailing = observer.create_mailing(short_or_long(1_000, 5_000), zones=zones, starts_in=1.2)
        opens = time.time() + 4.0
        set_window(system, observer, mailing, "Pacific/Apia", opens, opens + 3600)
        wait_for(lambda: time.time() > opens + 3, 10, "the window to open")
        first = min(row["at"] for row in observer.find_requests())
        observer.result.recovery_s = first - opens
        assert 0 <= first - opens < 3
        waiting = system.statistics(mailing)["waiting"]
        assert waiting == count_in_zone(system, mailing, "America/Sao_Paulo")
        system.call("POST", f"/mailings/{mailing}/cancel")
        wait_for(lambda: is_settled(system, mailing), 20, "the mailing to be settled")


def read_end(system: System, mailing_id: int) -> float:
    query = "SELECT extract(epoch FROM end_at)::float8 FROM mailings WHERE id = %s"
    return float(system.query(query, mailing_id)[0][0])


def is_settled(system: System, mailing_id: int) -> bool:
    return bool(system.query("SELECT settled FROM mailings WHERE id = %s", mailing_id)[0][0])


def count_in_zone(system: System, mailing_id: int, zone: str) -> int:
    """Count the messages of this zone."""
    query = """SELECT count(*) FROM messages m JOIN clients c ON c.id = m.client_id
        WHERE mailing_id = %s AND timezone = %s"""
    return int(system.query(query, mailing_id, zone)[0][0])


def set_window(
    system: System, observer: Observer, mailing_id: int, zone: str, opens: float, closes: float
) -> None:
    """Set a window between two instants in this zone, before the launch.

    The API accepts hours and minutes only, and waiting for a full minute would take too long, so
    the window is written to the database with seconds.
    """
    start, end = (datetime.fromtimestamp(at, ZoneInfo(zone)).time() for at in (opens, closes))
    with system.database() as cursor:
        cursor.execute(
            "UPDATE mailings SET window_from = %s, window_to = %s"
            " WHERE id = %s AND started_at IS NULL",
            (start, end, mailing_id),
        )
        assert cursor.rowcount == 1, "launched too soon"
