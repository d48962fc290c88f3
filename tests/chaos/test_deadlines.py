"""Ends and windows that come while messages are on their way."""

import time
from datetime import datetime
from zoneinfo import ZoneInfo

from tests.chaos.conftest import Watch
from tests.chaos.observer import Witness
from tests.chaos.run_options import pick
from tests.support.system import System, rfc3339
from tests.support.waiting import wait_for

REASONS = """
SELECT reason, count(*) FROM messages WHERE mailing_id = %s AND status = 'expired' GROUP BY 1
"""


def test_the_end_comes_in_mid_flight(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.4)
    with watch("the end comes in mid-flight") as witness:
        mailing = witness.mailing(pick(3_000, 8_000), lasts=4.0)
        end = end_of(system, mailing)
        done = system.wait_finished(mailing, 20)
        settled_after = time.time() - end
        counts = done["counts"]
        assert counts["sent"] > 100
        assert counts["expired"] == done["audience"] - counts["sent"] > 100
        assert dict(system.query(REASONS, mailing)) == {
            "the mailing ended first": counts["expired"]
        }
        # What was out at the end was awaited, and is not in doubt.
        assert done["in_doubt"] == 0
        accepted = {row["id"] for row in witness.arrivals() if row["accepted"]}
        assert len(accepted) == counts["sent"]
        witness.verdict.recovery_s = settled_after
        assert settled_after < 4


def test_the_end_comes_while_the_provider_hangs(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.05, faults={"accepted_hang": 0.3})
    with watch("the end comes while answers are missing") as witness:
        mailing = witness.mailing(pick(1_500, 5_000), lasts=3.0)
        end = end_of(system, mailing)
        done = system.wait_finished(mailing, 30)
        witness.verdict.recovery_s = time.time() - end
        assert done["counts"]["expired"] > 0
        # Accepted for all the provider knows, unanswered for all we know: the witness checks each.
        assert done["in_doubt"] > 0


def test_an_end_that_is_moved(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.2)
    with watch("PATCH of end_at in mid-flight, nearer and farther") as witness:
        nearer = witness.mailing(pick(2_000, 6_000))
        farther = witness.mailing(600, lasts=4.0)
        witness.wait_received(50)
        moved = time.time() + 3.2
        system.call("PATCH", f"/mailings/{nearer}", json={"end_at": rfc3339(moved)})
        system.call("PATCH", f"/mailings/{farther}", json={"end_at": rfc3339(moved + 600)})
        done = system.wait_finished(nearer, 20)
        witness.verdict.recovery_s = time.time() - moved
        assert done["counts"]["expired"] > 0
        done = system.wait_finished(farther, 30)
        assert done["counts"]["sent"] == done["audience"]


def test_a_window_closes_in_mid_mailing(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.2)
    with watch("the window closes in mid-mailing") as witness:
        mailing = witness.mailing(
            pick(4_000, 8_000), zones=("Asia/Kathmandu", "Europe/Moscow"), starts_in=1.5
        )
        closes = time.time() + 6.0
        set_window(system, witness, mailing, "Asia/Kathmandu", closes - 3600, closes)
        wait_for(lambda: time.time() > closes + 1.0, 20, "the window to close")
        counts = system.statistics(mailing)["counts"]
        assert 0 < counts["sent"] < done_at_most(system, mailing, "Asia/Kathmandu")
        last = max(row["at"] for row in witness.arrivals())
        witness.verdict.notes["last arrival after the close, ms"] = round((last - closes) * 1000, 1)
        time.sleep(pick(0.5, 5.0))
        assert system.statistics(mailing)["counts"]["sent"] == counts["sent"]
        system.call("POST", f"/mailings/{mailing}/cancel")
        system.wait_finished(mailing, 20)
        wait_for(lambda: settled(system, mailing), 20, "the books to be closed")


def test_a_window_opens(system: System, watch: Watch) -> None:
    system.provider.set(latency=0.05)
    with watch("a window opens") as witness:
        zones = ("America/Sao_Paulo", "Pacific/Apia")
        mailing = witness.mailing(pick(1_000, 5_000), zones=zones, starts_in=1.2)
        opens = time.time() + 4.0
        set_window(system, witness, mailing, "Pacific/Apia", opens, opens + 3600)
        wait_for(lambda: time.time() > opens + 3, 10, "the window to open")
        first = min(row["at"] for row in witness.arrivals())
        witness.verdict.recovery_s = first - opens
        assert 0 <= first - opens < 3
        waiting = system.statistics(mailing)["waiting"]
        assert waiting == done_at_most(system, mailing, "America/Sao_Paulo")
        system.call("POST", f"/mailings/{mailing}/cancel")
        wait_for(lambda: settled(system, mailing), 20, "the books to be closed")


def end_of(system: System, mailing_id: int) -> float:
    query = "SELECT extract(epoch FROM end_at)::float8 FROM mailings WHERE id = %s"
    return float(system.query(query, mailing_id)[0][0])


def settled(system: System, mailing_id: int) -> bool:
    return bool(system.query("SELECT settled FROM mailings WHERE id = %s", mailing_id)[0][0])


def done_at_most(system: System, mailing_id: int, zone: str) -> int:
    """How many of the audience live in that zone."""
    query = """SELECT count(*) FROM messages m JOIN clients c ON c.id = m.client_id
        WHERE mailing_id = %s AND timezone = %s"""
    return int(system.query(query, mailing_id, zone)[0][0])


def set_window(
    system: System, witness: Witness, mailing_id: int, zone: str, opens: float, closes: float
) -> None:
    """A window between two instants in that zone, before the launch.

    Callers say hours and minutes; a test that waited for a full minute would wait too long, so the
    seconds are put where the API would have put the minutes.
    """
    start, end = (datetime.fromtimestamp(at, ZoneInfo(zone)).time() for at in (opens, closes))
    with system.database() as cursor:
        cursor.execute(
            "UPDATE mailings SET window_from = %s, window_to = %s"
            " WHERE id = %s AND started_at IS NULL",
            (start, end, mailing_id),
        )
        assert cursor.rowcount == 1, "launched too soon"
