"""The fleet's circuit breaker on a real Valkey: several workers, each with its own client."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from dev.stack.services import Valkey
from shared.metrics import BREAKER_KEY, HOLD_KEY
from tests.support.waiting import wait_for
from worker.provider import circuit_breaker as module
from worker.provider.circuit_breaker import SCRIPT, SEND_TIME_MARGIN, CircuitBreaker
from worker.provider.circuit_breaker_rules import (
    FAILURE_THRESHOLD,
    MAX_PROBES,
    BreakerState,
    WorkerReport,
    apply_report,
)
from worker.provider.outcomes import Outcome
from worker.provider.redis_client import FailFastRedis, sending_loop_client
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
def make(valkey: Valkey) -> Callable[[], CircuitBreaker]:
    def make() -> CircuitBreaker:
        breaker = CircuitBreaker(FailFastRedis(sending_loop_client(valkey.url)), probe_timeout=2.0)
        breaker.sync(boottime())
        return breaker

    return make


def run(seconds: float, *breakers: CircuitBreaker) -> None:
    """Run the workers' sync loops for some seconds."""
    until = boottime() + seconds
    while boottime() < until:
        for breaker in breakers:
            breaker.sync(boottime())
        time.sleep(0.002)


def run_until(
    condition: Callable[[], object], *breakers: CircuitBreaker, seconds: float = 5.0
) -> float:
    """Run the loops until a condition holds; return the seconds it took."""
    began = boottime()

    def sync_and_check() -> bool:
        for breaker in breakers:
            breaker.sync(boottime())
        return bool(condition())

    wait_for(sync_and_check, seconds, every=0.002)
    return boottime() - began


def fail(breaker: CircuitBreaker, times: int = FAILURE_THRESHOLD) -> None:
    for _ in range(times):
        breaker.record_outcome(Outcome.UNAVAILABLE)


def allowed(breaker: CircuitBreaker) -> int | None:
    return breaker.allowance(boottime())


def is_open(breaker: CircuitBreaker) -> bool:
    return breaker.state == "open"


def test_it_starts_closed_and_neutral_outcomes_keep_it_closed(
    make: Callable[[], CircuitBreaker],
) -> None:
    breaker = make()
    for _ in range(100):
        breaker.record_outcome(Outcome.THROTTLED)
        breaker.record_outcome(Outcome.NOT_SENT)
    run(0.15, breaker)
    assert (breaker.state, breaker.reason, allowed(breaker)) == ("closed", "", None)


def test_the_observing_worker_stops_at_once_and_the_others_soon(
    make: Callable[[], CircuitBreaker],
) -> None:
    a, b, c = make(), make(), make()
    run(0.1, a, b, c)
    fail(a)
    assert allowed(a) == 0
    run_until(lambda: is_open(b) and is_open(c), a, b, c)
    assert (allowed(b), allowed(c), b.reason) == (0, 0, "unavailable")
    assert b.retry_at - boottime() < 1.2


def refuse(breaker: CircuitBreaker, times: int = FAILURE_THRESHOLD) -> None:
    for _ in range(times):
        breaker.record_outcome(Outcome.UNAUTHORIZED)


def test_a_rejected_token_opens_it_for_all_workers(make: Callable[[], CircuitBreaker]) -> None:
    a, b = make(), make()
    refuse(a, FAILURE_THRESHOLD // 2)
    refuse(b, FAILURE_THRESHOLD // 2)
    run_until(lambda: is_open(a) and is_open(b), a, b)
    assert a.reason == b.reason == "unauthorized"


def test_a_worker_with_an_old_token_slows_only_itself(make: Callable[[], CircuitBreaker]) -> None:
    healthy, old = make(), make()
    healthy.record_outcome(Outcome.ACCEPTED)
    run(0.15, healthy, old)
    attempts, until = 0, boottime() + 1.5
    while boottime() < until:
        healthy.record_outcome(Outcome.ACCEPTED)
        healthy.sync(boottime())
        old.sync(boottime())
        while allowed(old) is None:
            refuse(old, 1)
            attempts += 1
        assert allowed(healthy) is None
        time.sleep(0.002)
    assert 2 * FAILURE_THRESHOLD <= attempts <= 10 * FAILURE_THRESHOLD


def test_unauthorized_answers_for_some_recipients_do_not_open_it(
    make: Callable[[], CircuitBreaker],
) -> None:
    a, b = make(), make()
    until = boottime() + 1.0
    while boottime() < until:
        for breaker in (a, b):
            refuse(breaker, FAILURE_THRESHOLD - 1)
            breaker.record_outcome(Outcome.ACCEPTED)
            assert breaker.allowance(boottime()) is None
            breaker.sync(boottime())
            assert (breaker.state, breaker.allowance(boottime())) == ("closed", None)
        time.sleep(0.002)


def test_what_is_not_an_acceptance_does_not_confirm_the_token(
    make: Callable[[], CircuitBreaker],
) -> None:
    breaker = make()
    for outcome in (Outcome.REJECTED, Outcome.DECLINED, Outcome.UNAVAILABLE, Outcome.THROTTLED):
        refuse(breaker, FAILURE_THRESHOLD // 4)
        breaker.record_outcome(outcome)
    assert allowed(breaker) == 0
    run_until(lambda: breaker.reason == "unauthorized", breaker)


def test_all_workers_with_the_same_token_know_of_the_latest_acceptance(
    valkey: Valkey,
) -> None:
    def make(token: str) -> CircuitBreaker:
        return CircuitBreaker(FailFastRedis(sending_loop_client(valkey.url)), token=token)

    a, b, other = make("one"), make("one"), make("another")
    began = time.monotonic()
    run(0.3, a, b, other)
    a.accepted_sent_at = time.monotonic()
    assert a.accepted_after(began)
    assert not b.accepted_after(began)
    run_until(lambda: b.accepted_after(began), a, b, other)
    # What was sent after it, or a moment before it, is not before it for certain.
    assert not b.accepted_after(a.accepted_sent_at - SEND_TIME_MARGIN / 2)
    assert not other.accepted_after(began)
    other.accepted_sent_at = time.monotonic()
    run(0.3, a, b, other)
    assert not b.accepted_after(a.accepted_sent_at)
    fields: Any = Redis.from_url(valkey.url).hkeys(BREAKER_KEY)
    assert b"sent_at:one" not in fields


def test_failures_add_up_over_workers_and_a_probe_may_find_the_token_rejected(
    make: Callable[[], CircuitBreaker],
) -> None:
    a, b = make(), make()
    fail(a, FAILURE_THRESHOLD // 2)
    fail(b, FAILURE_THRESHOLD // 2)
    run_until(lambda: is_open(a) and is_open(b), a, b)
    run_until(lambda: a.allowance(boottime()), a)
    assert a.acquire_probe(boottime())
    a.record_outcome(Outcome.UNAUTHORIZED, probe=True)
    run_until(lambda: allowed(a) == 0, a)
    run_until(lambda: b.reason == "unauthorized", a, b)


def test_the_fleet_sends_exactly_max_probes(make: Callable[[], CircuitBreaker]) -> None:
    fleet = [make() for _ in range(5)]
    fail(fleet[0])
    run_until(lambda: all(map(is_open, fleet)), *fleet)
    sent = 0
    until = boottime() + 2.0
    while boottime() < until:
        for breaker in fleet:
            breaker.sync(boottime())
            while breaker.acquire_probe(boottime()):
                sent += 1
        time.sleep(0.002)
    assert sent == MAX_PROBES
    fleet[1].record_outcome(Outcome.DECLINED, probe=True)
    run_until(lambda: all(b.state == "closed" for b in fleet), *fleet)


def test_failing_probes_double_the_wait(make: Callable[[], CircuitBreaker]) -> None:
    breaker = make()
    fail(breaker)
    run_until(lambda: is_open(breaker), breaker)
    run_until(lambda: breaker.allowance(boottime()), breaker)
    assert breaker.acquire_probe(boottime())
    breaker.record_outcome(Outcome.UNKNOWN, probe=True)
    run_until(lambda: is_open(breaker), breaker)
    assert 1.0 < breaker.retry_at - boottime() < 2.3
    assert breaker.reason == "unknown"


def test_probes_of_a_killed_worker_and_unused_probes_are_granted_again(
    make: Callable[[], CircuitBreaker],
) -> None:
    killed, idle, other = make(), make(), make()
    fail(killed)
    run_until(lambda: is_open(other), killed, idle, other)
    run_until(lambda: killed.allowance(boottime()), killed)
    assert [killed.acquire_probe(boottime()) for _ in range(MAX_PROBES)] == [True] * MAX_PROBES
    assert run_until(lambda: idle.allowance(boottime()), idle) > 1.5  # the probe timeout
    assert allowed(other) == 0
    # `idle` has nothing to send; after about a second `other` gets its probes.

    def other_may_send() -> int | None:
        idle.sync(boottime(), wanted_probes=0)
        return other.allowance(boottime())

    assert run_until(other_may_send, other) < 1.5


def test_a_worker_with_a_broken_network_slows_only_itself(
    make: Callable[[], CircuitBreaker],
) -> None:
    healthy, broken = make(), make()
    healthy.record_outcome(Outcome.ACCEPTED)
    run(0.15, healthy, broken)
    attempts, until = 0, boottime() + 1.0
    while boottime() < until:
        healthy.record_outcome(Outcome.ACCEPTED)
        healthy.sync(boottime())
        broken.sync(boottime())
        while allowed(broken) is None:
            broken.record_outcome(Outcome.UNAVAILABLE)
            attempts += 1
        assert allowed(healthy) is None
        time.sleep(0.002)
    assert FAILURE_THRESHOLD <= attempts <= 25 * FAILURE_THRESHOLD


def test_losing_redis_data_closes_it_and_resets_the_count(
    make: Callable[[], CircuitBreaker], valkey: Valkey
) -> None:
    a, b = make(), make()
    fail(a)
    run_until(lambda: is_open(b), a, b)
    Redis.from_url(valkey.url).flushall()
    run_until(lambda: a.state == b.state == "closed", a, b)
    fail(b, FAILURE_THRESHOLD - 1)
    run(0.2, a, b)
    assert b.state == "closed"
    fail(b, 1)
    run_until(lambda: is_open(a), a, b)


def test_without_redis_each_worker_keeps_its_own_breaker(
    make: Callable[[], CircuitBreaker], valkey: Valkey
) -> None:
    a, b = make(), make()
    valkey.kill()
    fail(a)
    fail(b, 1)
    run(0.3, a, b)
    assert (a.state, b.state) == ("open", "closed")
    run_until(lambda: a.allowance(boottime()), a, b)
    assert a.acquire_probe(boottime())
    a.record_outcome(Outcome.ACCEPTED, probe=True)
    run_until(lambda: a.state == "closed", a, b)
    # Redis returns empty; from the next failures on the breaker is shared again.
    valkey.start()
    fleet = Redis.from_url(valkey.url)

    def is_shared() -> bool:
        fail(a, 1)
        fail(b, 1)
        return bool(fleet.hget(BREAKER_KEY, "opens")) and is_open(a) and is_open(b)

    run_until(is_shared, a, b)


def test_an_unresponsive_redis_blocks_the_loop_for_less_than_a_third(
    make: Callable[[], CircuitBreaker], valkey: Valkey
) -> None:
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


def test_the_whole_fleet_waits_until_the_latest_hold(
    make: Callable[[], CircuitBreaker],
) -> None:
    a, b = make(), make()
    until = boottime() + 3.0
    a.hold_until(until)
    assert allowed(a) == 0
    run_until(lambda: allowed(b) == 0, a, b, seconds=2.5)
    b.hold_until(boottime() + 0.1)
    run(0.3, a, b)
    assert allowed(a) == allowed(b) == 0
    assert b.retry_at == pytest.approx(until, abs=0.1)
    run_until(lambda: allowed(a) is None and allowed(b) is None, a, b)
    assert boottime() >= until


def test_keys_expire(make: Callable[[], CircuitBreaker], valkey: Valkey) -> None:
    breaker = make()
    fail(breaker)
    breaker.hold_until(boottime() + 2)
    client = Redis.from_url(valkey.url, decode_responses=True)
    run_until(lambda: bool(client.exists(BREAKER_KEY)), breaker)
    assert {str(name) for name in client.keys("*")} == {BREAKER_KEY, HOLD_KEY}
    assert 500_000 < client.pttl(BREAKER_KEY) <= 600_000
    assert 0 < client.pttl(HOLD_KEY) <= 2000


def test_each_change_is_logged_once_by_the_worker_that_caused_it(
    make: Callable[[], CircuitBreaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = structlog.testing.CapturingLogger()
    monkeypatch.setattr(module, "log", logger)
    a, b = make(), make()
    fail(a)
    run_until(lambda: is_open(b), a, b)
    run_until(lambda: a.allowance(boottime()) or b.allowance(boottime()), a, b)
    prober = a if a.allowance(boottime()) else b
    prober.acquire_probe(boottime())
    prober.record_outcome(Outcome.ACCEPTED, probe=True)
    run_until(lambda: a.state == b.state == "closed", a, b)
    assert [call.args[0] for call in logger.calls] == [
        "breaker.opened", "breaker.probing", "breaker.closed",
    ]  # fmt: skip
    assert logger.calls[0].kwargs["reason"] == "unavailable"
    assert 1.0 <= logger.calls[0].kwargs["wait"] <= 1.1


REPORTS = st.builds(
    WorkerReport,
    provider_worked=st.booleans(),
    trailing_failures=st.integers(0, FAILURE_THRESHOLD + 1),
    failure_reason=st.sampled_from(["unavailable", "unknown"]),
    accepted=st.booleans(),
    trailing_unauthorized=st.sampled_from([0] * 6 + [1, FAILURE_THRESHOLD // 2, FAILURE_THRESHOLD]),
    probe_worked=st.just(False),
    probe_failure=st.sampled_from(["", "", "unknown", "unauthorized"]),
    returned_probes=st.integers(0, 2),
    wanted_probes=st.integers(0, MAX_PROBES),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(REPORTS, st.booleans(), st.sampled_from("ab"),
                  st.sampled_from([0.125, 0.25, 1.0, 8.0])),
        max_size=30,
    )
)  # fmt: skip
def test_redis_and_python_apply_the_same_rules(
    server: Valkey, steps: list[tuple[WorkerReport, bool, str, float]]
) -> None:
    client = Redis.from_url(server.url)
    client.flushall()
    # The same script, with the time as two more arguments.
    lua, changed = re.subn(r"redis\.call\('TIME'\)", "{ARGV[16], ARGV[17]}", SCRIPT)
    assert changed == 1
    script = client.register_script(lua)
    state, now = BreakerState(), 1_700_000_000.0
    for report, probe_worked, worker, seconds in steps:
        now += seconds
        report.probe_worked = report.provider_worked and probe_worked
        report.accepted = report.provider_worked and report.accepted
        reply = script(
            [BREAKER_KEY, HOLD_KEY],
            [
                worker, int(report.provider_worked), report.trailing_failures,
                report.failure_reason, int(report.accepted), report.trailing_unauthorized,
                int(report.probe_worked), report.probe_failure, report.returned_probes,
                report.wanted_probes, 15, 1.0, 0, "", "", int(now), int(now % 1 * 1e6),
            ],
        )  # fmt: skip
        result = apply_report(state, report, worker, now, 15, 1.0)
        event, wait, granted, until, _, opens, reason, run_length, _, _ = reply
        assert (event.decode(), float(wait), int(granted)) == tuple(asdict(result).values())
        assert (now + float(until) if until else 0.0) == state.until
        assert (int(opens), reason.decode(), int(run_length)) == (
            state.opens, state.reason, state.run,
        )  # fmt: skip
        stored: Any = client.hget(BREAKER_KEY, "unauthorized_run")
        assert int(stored or 0) == state.unauthorized_run
