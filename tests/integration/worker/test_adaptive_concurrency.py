"""The requests in flight of real workers: they follow what the provider and the system permit."""

import os
import resource
from collections.abc import Iterator
from functools import partial

import pytest
from redis import Redis

from shared.file_limit import MAX_OPEN_FILES
from shared.fleet_status import read_fleet_status
from tests.support.system import Process, System
from tests.support.waiting import wait_for

FILTER = {"operator_codes": [], "tags": ["all"]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("adaptive"), dispatchers=1)
    try:
        system.start()
        system.add_clients(6_000, tag="all")
        yield system
    finally:
        system.stop()


@pytest.fixture
def system(running: System) -> Iterator[System]:
    """Yield the system with a worker that has learned nothing."""
    running["dispatch-1"].stop()
    running["dispatch-1"].log.write_text("")
    running["dispatch-1"].start()
    running.provider.reset()
    yield running
    running.provider.reset()
    running.check_totals()


def concurrency_limit(system: System) -> int:
    with Redis.from_url(system.valkey.url) as redis:
        return read_fleet_status(redis).concurrency_limit


def count_events(process: Process, event: str) -> int:
    return process.log.read_text().count(f'"event":"{event}"')


def has_file_limit(process: Process, wanted: int) -> bool:
    return resource.prlimit(pid_of(process), resource.RLIMIT_NOFILE)[0] == wanted


def pid_of(process: Process) -> int:
    assert process.popen is not None
    return process.popen.pid


def test_more_requests_are_in_flight_while_the_rate_grows(system: System) -> None:
    system.provider.set(latency=0.3)
    mailing = system.create_mailing(filter=FILTER)
    wait_for(lambda: system.provider.stats()["in_flight"] > 200, 20, "more in flight than at first")
    wait_for(lambda: concurrency_limit(system) > 200, 30, "the limit is reported")
    system.wait_finished(mailing, 30)
    assert system.provider.summary()["duplicates"] == 0


def test_a_provider_that_throttles_gets_fewer_requests(system: System) -> None:
    system.provider.set(latency=0.1, capacity=20, overload="throttle", retry_after=1)
    mailing = system.create_mailing(filter=FILTER)
    wait_for(lambda: 0 < concurrency_limit(system) <= 20, 20, "the limit has fallen")
    received = system.provider.stats()["received"]
    wait_for(lambda: system.provider.stats()["received"] > received + 500, 15, "sending goes on")
    assert count_events(system["dispatch-1"], "provider.concurrency_reduced") >= 1
    assert count_events(system["dispatch-1"], "breaker.opened") == 0
    system.call("POST", f"/mailings/{mailing}/cancel")
    system.wait_finished(mailing, 15)


def test_missing_file_descriptors_consume_no_attempts(system: System) -> None:
    """The worker sends with the connections it has, and more once it can open files again."""
    dispatcher = system["dispatch-1"]
    system.provider.set(latency=0.2)
    mailing = system.create_mailing(filter=FILTER)
    wait_for(lambda: system.provider.stats()["in_flight"] > 50, 20, "sending has begun")
    pid = pid_of(dispatcher)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
    wait_for(lambda: count_events(dispatcher, "worker.no_files"), 15, "it is reported")
    received = system.provider.stats()["received"]
    wait_for(lambda: system.provider.stats()["received"] > received + 300, 15, "sending goes on")
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    counts = system.wait_finished(mailing, 60)["counts"]
    assert counts["sent"] == 6_000
    assert system.query("SELECT count(*) FROM attempts WHERE mailing_id = %s", mailing) == [(0,)]
    assert count_events(dispatcher, "breaker.opened") == 0
    assert system.provider.summary()["duplicates"] == 0


def test_processes_raise_their_limit_of_open_files(system: System) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 200)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        names = ("dispatch-1", "control", "scheduler", "api", "provider")
        for name in names:
            system[name].stop()
            system[name].start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    wait_for(system.provider_ready, 90, "the provider")
    wait_for(system.api_ready, 90, "the API")
    wanted = min(hard, MAX_OPEN_FILES)
    for name in names:
        wait_for(partial(has_file_limit, system[name], wanted), 15, f"the limit of {name}")
    assert count_events(system["dispatch-1"], "process.started") == 1
    assert f'"open_files":{wanted}' in system["dispatch-1"].log.read_text()
