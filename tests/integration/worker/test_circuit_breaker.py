"""The fleet's breaker against a real Valkey: several workers, each with a client of its own."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from dev.stack.services import Valkey
from tests.support.waiting import wait_for
from worker.provider import circuit_breaker as module
from worker.provider.circuit_breaker import HOLD_KEY, KEY, Breaker
from worker.provider.circuit_breaker_rules import (
    PROBES,
    THRESHOLD,
    TRANSITION,
    Report,
    State,
    transition,
)
from worker.provider.outcomes import Outcome
from worker.provider.redis_client import HotRedis, hot_client
from worker.runtime.clock import boottime


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.remove()


@pytest.fixture
def valkey(server: Valkey) -> Valkey:
    """Empty and running."""
    if server.pid is None:
        server.start()
    Redis.from_url(server.url).flushall()
    return server


@pytest.fixture
def make(valkey: Valkey) -> Callable[[], Breaker]:
    def make() -> Breaker:
        breaker = Breaker(HotRedis(hot_client(valkey.url)), probe_timeout=2.0)
        breaker.sync(boottime())
        return breaker

    return make


def run(seconds: float, *breakers: Breaker) -> None:
    """Turn the workers' loops for a while."""
    until = boottime() + seconds
    while boottime() < until:
        for breaker in breakers:
            breaker.sync(boottime())
        time.sleep(0.002)


def run_until(condition: Callable[[], bool], *breakers: Breaker, seconds: float = 5.0) -> float:
    """Turn the loops until something is so; how long it took."""
    began = boottime()

    def turn() -> bool:
        for breaker in breakers:
            breaker.sync(boottime())
        return condition()

    wait_for(turn, seconds, every=0.002)
    return boottime() - began


def fail(breaker: Breaker, times: int = THRESHOLD) -> None:
    for _ in range(times):
        breaker.record(Outcome.UNAVAILABLE)


def allowed(breaker: Breaker) -> int | None:
    return breaker.allow(boottime())


def is_open(breaker: Breaker) -> bool:
    return breaker.state == "open"


def test_it_is_closed_at_first_and_neutral_outcomes_leave_it_so(
    make: Callable[[], Breaker],
) -> None:
    breaker = make()
    for _ in range(100):
        breaker.record(Outcome.THROTTLED)
        breaker.record(Outcome.NOT_SENT)
    run(0.15, breaker)
    assert (breaker.state, breaker.reason, allowed(breaker)) == ("closed", "", None)


def test_who_sees_it_stops_at_once_and_the_others_within_200_ms(
    make: Callable[[], Breaker],
) -> None:
    a, b, c = make(), make(), make()
    run(0.1, a, b, c)
    fail(a)
    assert allowed(a) == 0
    assert run_until(lambda: is_open(b) and is_open(c), a, b, c) < 0.2
    assert (allowed(b), allowed(c), b.reason) == (0, 0, "unavailable")
    assert 0.5 < b.retry_at - boottime() < 1.2


def test_runs_add_up_over_workers_and_a_refused_token_opens_at_once(
    make: Callable[[], Breaker],
) -> None:
    a, b = make(), make()
    fail(a, THRESHOLD // 2)
    fail(b, THRESHOLD // 2)
    run_until(lambda: is_open(a) and is_open(b), a, b)
    run_until(lambda: a.allow(boottime()), a)
    assert a.probe(boottime())
    a.record(Outcome.UNAUTHORIZED, probe=True)
    assert allowed(a) == 0
    run_until(lambda: b.reason == "unauthorized", a, b)


def test_the_fleet_sends_so_many_probes_and_no_more(make: Callable[[], Breaker]) -> None:
    fleet = [make() for _ in range(5)]
    fail(fleet[0])
    run_until(lambda: all(map(is_open, fleet)), *fleet)
    sent = 0
    until = boottime() + 2.0
    while boottime() < until:
        for breaker in fleet:
            breaker.sync(boottime())
            while breaker.probe(boottime()):
                sent += 1
        time.sleep(0.002)
    assert sent == PROBES
    fleet[1].record(Outcome.DECLINED, probe=True)
    assert run_until(lambda: all(b.state == "closed" for b in fleet), *fleet) < 0.3


def test_failing_probes_double_the_wait(make: Callable[[], Breaker]) -> None:
    breaker = make()
    fail(breaker)
    run_until(lambda: is_open(breaker), breaker)
    run_until(lambda: breaker.allow(boottime()), breaker)
    assert breaker.probe(boottime())
    breaker.record(Outcome.UNKNOWN, probe=True)
    run_until(lambda: is_open(breaker), breaker)
    assert 1.8 < breaker.retry_at - boottime() < 2.3
    assert breaker.reason == "unknown"


def test_probes_of_a_killed_worker_and_unused_ones_wedge_nothing(
    make: Callable[[], Breaker],
) -> None:
    killed, idle, other = make(), make(), make()
    fail(killed)
    run_until(lambda: is_open(other), killed, idle, other)
    run_until(lambda: killed.allow(boottime()), killed)
    assert [killed.probe(boottime()) for _ in range(PROBES)] == [True] * PROBES
    assert run_until(lambda: idle.allow(boottime()), idle) > 1.5  # the probe timeout
    assert allowed(other) == 0
    # `idle` has nothing to send; within a second or so they are `other`'s.
    idle_sync = lambda: idle.sync(boottime(), probes_wanted=0)  # noqa: E731
    assert run_until(lambda: (idle_sync(), other.allow(boottime()))[1], other) < 1.5


def test_one_sick_worker_slows_itself_and_nobody_else(make: Callable[[], Breaker]) -> None:
    well, sick = make(), make()
    well.record(Outcome.ACCEPTED)
    run(0.15, well, sick)
    attempts, until = 0, boottime() + 1.0
    while boottime() < until:
        well.record(Outcome.ACCEPTED)
        well.sync(boottime())
        sick.sync(boottime())
        while allowed(sick) is None:
            sick.record(Outcome.UNAVAILABLE)
            attempts += 1
        assert allowed(well) is None
        time.sleep(0.002)
    assert THRESHOLD <= attempts <= 25 * THRESHOLD


def test_losing_redis_contents_closes_it_with_a_fresh_count(
    make: Callable[[], Breaker], valkey: Valkey
) -> None:
    a, b = make(), make()
    fail(a)
    run_until(lambda: is_open(b), a, b)
    Redis.from_url(valkey.url).flushall()
    run_until(lambda: a.state == b.state == "closed", a, b)
    fail(b, THRESHOLD - 1)
    run(0.2, a, b)
    assert b.state == "closed"
    fail(b, 1)
    run_until(lambda: is_open(a), a, b)


def test_without_redis_each_worker_goes_on_by_itself(
    make: Callable[[], Breaker], valkey: Valkey
) -> None:
    a, b = make(), make()
    valkey.kill()
    fail(a)
    fail(b, 1)
    run(0.3, a, b)
    assert (a.state, b.state) == ("open", "closed")
    run_until(lambda: a.allow(boottime()), a, b)
    assert a.probe(boottime())
    a.record(Outcome.ACCEPTED, probe=True)
    run_until(lambda: a.state == "closed", a, b)
    # Redis comes back with nothing; from the next failures on the breaker is the fleet's again.
    valkey.start()
    fleet = Redis.from_url(valkey.url)

    def is_shared() -> bool:
        fail(a, 1)
        fail(b, 1)
        return bool(fleet.hget(KEY, "opens")) and is_open(a) and is_open(b)

    run_until(is_shared, a, b)


def test_a_silent_redis_costs_the_loop_little(make: Callable[[], Breaker], valkey: Valkey) -> None:
    breaker = make()
    assert valkey.pid
    os.kill(valkey.pid, signal.SIGSTOP)
    try:
        began, blocked = boottime(), 0.0
        while (now := boottime()) < began + 1.5:
            breaker.sync(now)
            blocked += boottime() - now
            time.sleep(0.005)
        assert blocked < 0.5
    finally:
        os.kill(valkey.pid, signal.SIGCONT)


def test_the_whole_fleet_waits_as_told_and_forgets_nothing_earlier(
    make: Callable[[], Breaker],
) -> None:
    a, b = make(), make()
    until = boottime() + 1.0
    a.hold(until)
    assert allowed(a) == 0
    assert run_until(lambda: allowed(b) == 0, a, b) < 0.25
    b.hold(boottime() + 0.1)
    run(0.3, a, b)
    assert allowed(a) == allowed(b) == 0
    assert b.retry_at == pytest.approx(until, abs=0.1)
    run_until(lambda: allowed(a) is None and allowed(b) is None, a, b)
    assert boottime() >= until


def test_keys_do_not_stay_for_ever(make: Callable[[], Breaker], valkey: Valkey) -> None:
    breaker = make()
    fail(breaker)
    breaker.hold(boottime() + 2)
    client = Redis.from_url(valkey.url)
    run_until(lambda: bool(client.exists(KEY)), breaker)
    assert {name.decode() for name in client.keys("*")} == {KEY, HOLD_KEY}
    assert 500_000 < client.pttl(KEY) <= 600_000
    assert 0 < client.pttl(HOLD_KEY) <= 2000


def test_each_change_is_said_once_by_who_caused_it(
    make: Callable[[], Breaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = structlog.testing.CapturingLogger()
    monkeypatch.setattr(module, "log", said)
    a, b = make(), make()
    fail(a)
    run_until(lambda: is_open(b), a, b)
    run_until(lambda: a.allow(boottime()) or b.allow(boottime()), a, b)
    prober = a if a.allow(boottime()) else b
    prober.probe(boottime())
    prober.record(Outcome.ACCEPTED, probe=True)
    run_until(lambda: a.state == b.state == "closed", a, b)
    assert [call.args[0] for call in said.calls] == [
        "breaker.opened", "breaker.probing", "breaker.closed",
    ]  # fmt: skip
    assert said.calls[0].kwargs["reason"] == "unavailable"
    assert 1.0 <= said.calls[0].kwargs["wait"] <= 1.1


REPORTS = st.builds(
    Report,
    worked=st.booleans(),
    tail=st.integers(0, THRESHOLD + 1),
    reason=st.sampled_from(["unavailable", "unknown"]),
    unauthorized=st.sampled_from([False] * 9 + [True]),
    probe_worked=st.just(False),
    probe_failed=st.sampled_from(["", "", "unknown", "unauthorized"]),
    probes_returned=st.integers(0, 2),
    probes_wanted=st.integers(0, PROBES),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(REPORTS, st.booleans(), st.sampled_from("ab"),
                  st.sampled_from([0.125, 0.25, 1.0, 8.0])),
        max_size=30,
    )
)  # fmt: skip
def test_redis_and_the_local_copy_follow_the_same_rules(
    server: Valkey, steps: list[tuple[Report, bool, str, float]]
) -> None:
    client = Redis.from_url(server.url)
    client.flushall()
    # The very script, but told the time.
    lua, changed = re.subn(r"redis\.call\('TIME'\)", "{ARGV[13], ARGV[14]}", TRANSITION)
    assert changed == 1
    script = client.register_script(lua)
    state, now = State(), 1_700_000_000.0
    for report, probe_worked, worker, passes in steps:
        now += passes
        report.probe_worked = report.worked and probe_worked
        answer = script(
            [KEY, HOLD_KEY],
            [worker, int(report.worked), report.tail, report.reason, int(report.unauthorized),
             int(report.probe_worked), report.probe_failed, report.probes_returned,
             report.probes_wanted, 15, 1.0, 0, int(now), int(now % 1 * 1e6)],
        )  # fmt: skip
        change = transition(state, report, worker, now, 15, 1.0)
        event, wait, granted, until, _, opens, reason, run_length, _ = answer
        assert (event.decode(), float(wait), int(granted)) == tuple(asdict(change).values())
        assert (now + float(until) if until else 0.0) == state.until
        assert (int(opens), reason.decode(), int(run_length)) == (
            state.opens, state.reason, state.run,
        )  # fmt: skip
