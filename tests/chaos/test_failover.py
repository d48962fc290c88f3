"""PostgreSQL fails over to a standby, its network is cut, or its processes crash.

During each outage the workers cannot renew their leases. After it they report first, so nothing is
sent twice, however long the outage was.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.chaos.conftest import SETTINGS, Observe, check_processes, has_failed
from tests.chaos.observer import Observer
from tests.chaos.run_options import short_or_long
from tests.support.replicated_system import ReplicatedSystem
from tests.support.waiting import wait_for

LATENCY = {"min": 0.02, "max": 0.15}
AFTER_A_LEASE = short_or_long(15.0, 30.0)  # a lease lasts 12 s
LATE_SECONDS = 3.0
MESSAGES = short_or_long(3_000, 15_000)

MakeSystem = Callable[..., ReplicatedSystem]


@pytest.fixture
def make_system(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[MakeSystem]:
    """Return a function that starts a system with a standby of its own."""
    systems: list[ReplicatedSystem] = []

    def make(**options: object) -> ReplicatedSystem:
        directory = Path(tmp_path_factory.mktemp("failover"))
        systems.append(ReplicatedSystem(directory, **{**SETTINGS, **options}))  # type: ignore[arg-type]
        return systems[-1].start()

    yield make
    try:
        if not has_failed(request):
            for system in systems:
                check_processes(system, {})
    finally:
        for system in systems:
            system.stop()


@pytest.fixture
def system(make_system: MakeSystem, request: pytest.FixtureRequest) -> ReplicatedSystem:
    return make_system(**getattr(request, "param", {}))


def restore_late_proxy(system: ReplicatedSystem, observer: Observer, back: float) -> None:
    """Let the first dispatcher find PostgreSQL only when another one sends again."""
    observer.wait_for_recovery(back, 20)
    time.sleep(LATE_SECONDS)
    system.late_proxy.restore()


@pytest.mark.parametrize(
    ("system", "away"),
    [({"several_hosts": True}, 3.0), ({}, AFTER_A_LEASE)],
    indirect=["system"],
    ids=["less than a lease, several hosts", "more than a lease, one address"],
)
def test_failover_to_a_synchronous_standby_repeats_nothing(
    system: ReplicatedSystem, observe: Observe, away: float
) -> None:
    system.provider.set(latency=LATENCY)
    with observe(f"primary killed, standby promoted after {away:.0f} s") as observer:
        mailing = observer.create_mailing(MESSAGES)
        observer.wait_for_requests(300)
        system.postgres.kill()
        system.late_proxy.cut()
        time.sleep(away)
        system.fail_over()
        back = time.time()
        restore_late_proxy(system, observer, back)
        wait_for(system.api_ready, 10, "the API")
        done = system.wait_finished(mailing, 90)
        assert done["counts"]["sent"] == done["audience"]
        assert done["in_doubt"] == 0


def test_network_cut_longer_than_a_lease_repeats_nothing(
    system: ReplicatedSystem, observe: Observe
) -> None:
    system.provider.set(latency=LATENCY)
    away = short_or_long(15.0, 45.0)
    with observe(f"network to PostgreSQL cut for {away:.0f} s") as observer:
        mailing = observer.create_mailing(MESSAGES)
        observer.wait_for_requests(300)
        system.proxy.cut()
        system.late_proxy.cut()
        time.sleep(away)
        system.proxy.restore()
        back = time.time()
        restore_late_proxy(system, observer, back)
        wait_for(system.api_ready, 10, "the API")
        done = system.wait_finished(mailing, 90)
        assert done["counts"]["sent"] == done["audience"]
        assert done["in_doubt"] == 0


def test_crash_of_all_backends_repeats_nothing(system: ReplicatedSystem, observe: Observe) -> None:
    """PostgreSQL's main process survives a crash of the others, so its start says nothing."""
    system.provider.set(latency=LATENCY)
    with observe(f"all backends killed, back after {AFTER_A_LEASE:.0f} s") as observer:
        mailing = observer.create_mailing(MESSAGES)
        observer.wait_for_requests(300)
        assert system.postgres.pid
        postmaster = psutil.Process(system.postgres.pid)
        system.late_proxy.cut()
        postmaster.suspend()
        for child in postmaster.children():
            child.kill()
        time.sleep(AFTER_A_LEASE)
        postmaster.resume()
        back = time.time()
        restore_late_proxy(system, observer, back)
        wait_for(system.api_ready, 10, "the API")
        done = system.wait_finished(mailing, 90)
        assert done["counts"]["sent"] == done["audience"]
        assert done["in_doubt"] == 0


@pytest.mark.parametrize("system", [{"synchronous": False}], indirect=True, ids=["asynchronous"])
def test_ids_are_not_given_again_by_a_standby_that_was_behind(system: ReplicatedSystem) -> None:
    """What was committed but not replicated is lost, while workers still hold it."""
    system.provider.set(latency=0.05)
    system.add_clients(1_000, tag="running")
    running = system.create_mailing(filter={"tags": ["running"]}, rate_limit=50)
    wait_for(lambda: system.statistics(running)["counts"]["sent"] > 100, 30, "messages are sent")

    system.standby.stop()
    system.add_clients(200, tag="lost")
    lost = system.create_mailing(filter={"tags": ["lost"]}, rate_limit=50)
    wait_for(lambda: system.statistics(lost)["counts"]["sent"] > 50, 30, "messages are sent")
    system.postgres.kill()
    system.standby.start()
    system.fail_over()
    wait_for(system.api_ready, 90, "the API")

    system.call("GET", f"/mailings/{lost}", expect=404)
    system.add_clients(200, tag="new")
    new = system.create_mailing(filter={"tags": ["new"]}, text="New")
    system.call("PATCH", f"/mailings/{running}", json={"rate_limit": None})
    for mailing, audience in ((new, 200), (running, 1_000)):
        done = system.wait_finished(mailing, 60)
        assert done["counts"]["sent"] == done["audience"] == audience
    system.check_totals()
    contents = defaultdict(set)
    for row in system.provider.requests():
        contents[row["id"]].add((row["phone"], row["text"]))
    assert len(contents) > 1_000 + 200 + 50
    assert all(len(each) == 1 for each in contents.values()), "an id with two phones"
