"""Rules of the policy hold at full speed and when workers are killed."""

import time
from datetime import datetime
from typing import Any

from redis import Redis

from shared.metrics import SWEPT_KEY
from tests.chaos.conftest import Observe
from tests.chaos.run_options import short_or_long
from tests.support.system import System
from tests.support.waiting import wait_for

ANY_VERSION = {"If-Match": "*"}


def read_mailing(system: System, mailing_id: int) -> dict[str, Any]:
    mailing: dict[str, Any] = system.call("GET", f"/mailings/{mailing_id}")
    return mailing


def test_an_emergency_stop_holds_everything_within_a_second(
    system: System, observe: Observe
) -> None:
    system.provider.set(latency=0.1)
    with observe("emergency stop at full speed, resume") as observer:
        first = observer.create_mailing(short_or_long(3_000, 10_000))
        # Its leased messages would last for seconds.
        slow = observer.create_mailing(60, rate_limit=10)
        observer.wait_for_requests(200)
        for _ in range(short_or_long(2, 6)):
            system.call("POST", "/policy/stop")
            stopped = time.time()
            time.sleep(1.5)
            late = observer.find_requests(stopped + 1.0)
            assert not late, f"{len(late)} requests more than a second after the stop"
            system.call("POST", "/policy/resume")
            observer.wait_for_recovery(time.time(), 10)
        # During a stop nothing begins either: neither a mailing nor a test send.
        system.call("POST", "/policy/stop")
        due = observer.create_mailing(20)
        sweep_twice(system)
        assert [read_mailing(system, each)["status"] for each in (first, due)] == [
            "running",
            "scheduled",
        ]
        test = {"text": "Hello", "phones": ["79990000000"]}
        assert system.call("POST", "/mailings/test-send", 409, json=test)["code"]
        system.call("POST", "/policy/resume")
        for mailing_id in (first, slow, due):
            done = system.wait_finished(mailing_id, 60)
            assert done["counts"]["sent"] == done["audience"]


def sweep_twice(system: System) -> None:
    """Wait for the ends of three sweeps, two of which began after this call."""
    seen = set()
    with Redis.from_url(system.valkey.url) as redis:

        def count_sweeps() -> bool:
            seen.add(redis.get(SWEPT_KEY))
            return len(seen) > 3

        wait_for(count_sweeps, 60, "three sweeps", every=0.1)


def test_a_launcher_that_is_killed_at_the_audience_limit_sends_nothing(
    system: System, observe: Observe
) -> None:
    with observe("SIGKILL of the launcher at the audience limit") as observer:
        clients = short_or_long(5_000, 20_000)
        mailing_id = observer.create_mailing(clients, max_audience=clients // 2)
        wait_for(lambda: is_begun(system, mailing_id), 30, "a chunk", every=0.005)
        system["control"].kill()
        system["control"].start()
        paused = wait_for(
            lambda: (
                mailing
                if (mailing := read_mailing(system, mailing_id))["status"] == "paused"
                else None
            ),
            60,
            "the mailing to pause",
        )
        assert paused["pause_reason"] == "audience_limit"
        assert clients // 2 < paused["audience"] <= clients
        assert not paused["audience_complete"]
        assert observer.count_requests() == 0
        refused = system.call("POST", f"/mailings/{mailing_id}/resume", 409)
        assert refused["code"] == "audience_limit_exceeded"
        system.call("PATCH", f"/mailings/{mailing_id}", json={"max_audience": clients})
        system.call("POST", f"/mailings/{mailing_id}/resume")
        done = system.wait_finished(mailing_id, 90)
        assert done["counts"]["sent"] == done["audience"] == clients


def is_begun(system: System, mailing_id: int) -> bool:
    ((audience,),) = system.query("SELECT audience FROM mailings WHERE id = %s", mailing_id)
    return bool(audience)


def test_a_mailing_can_be_cancelled_during_its_launch_delay(
    system: System, observe: Observe
) -> None:
    system.call("PUT", "/policy", json={"launch_delay": 3}, headers=ANY_VERSION)
    with observe("launch delay, cancel") as observer:
        kept = observer.create_mailing(50)
        mistaken = system.create_mailing(text="a mistake")
        cancelled = system.call("POST", f"/mailings/{mistaken}/cancel")
        assert (cancelled["status"], cancelled["audience"]) == ("cancelled", 0)
        launch_at = datetime.fromisoformat(read_mailing(system, kept)["launch_at"])
        done = system.wait_finished(kept, 60)
        assert done["counts"]["sent"] == done["audience"] == 50
        assert not [row for row in observer.find_requests() if row["text"] == "a mistake"]
        first = min(row["at"] for row in observer.find_requests(mailing_id=kept))
        assert first >= launch_at.timestamp() - 0.05
