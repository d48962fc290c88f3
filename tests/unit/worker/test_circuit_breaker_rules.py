"""The rules of the circuit breaker, one report at a time."""

from itertools import pairwise

from worker.provider.circuit_breaker_rules import (
    FAILURE_THRESHOLD,
    FIRST_WAIT_SECONDS,
    MAX_PROBES,
    MAX_WAIT_SECONDS,
    RECENT_SECONDS,
    BreakerState,
    Transition,
    WorkerReport,
    apply_report,
)

PROBE_TIMEOUT = 15.0
NOTHING = WorkerReport()
SUCCESS = WorkerReport(provider_worked=True)
PROBE_SUCCESS = WorkerReport(provider_worked=True, probe_worked=True)
PROBE_FAILURE = WorkerReport(trailing_failures=1, failure_reason="unknown", probe_failure="unknown")
UNAUTHORIZED = WorkerReport(trailing_unauthorized=FAILURE_THRESHOLD)
ACCEPTANCE = WorkerReport(provider_worked=True, accepted=True)


def failures(count: int, reason: str = "unavailable") -> WorkerReport:
    return WorkerReport(trailing_failures=count, failure_reason=reason)


def probe_request(count: int) -> WorkerReport:
    return WorkerReport(wanted_probes=count)


OUTAGE = failures(FAILURE_THRESHOLD)


def step(state: BreakerState, report: WorkerReport, now: float, worker: str = "a") -> Transition:
    return apply_report(state, report, worker, now, PROBE_TIMEOUT, 1.0)


def opened(report: WorkerReport = OUTAGE) -> BreakerState:
    """Return a breaker that was opened at 100.0 and is half open from 101.0."""
    state = BreakerState()
    assert step(state, report, 100.0).event == "opened"
    return state


def test_a_run_of_failures_over_all_workers_opens_it() -> None:
    state = BreakerState()
    assert not step(state, failures(FAILURE_THRESHOLD - 1, "unknown"), 100.0, "a").event
    result = step(state, failures(1, "unavailable"), 100.1, "b")
    assert (result.event, result.wait) == ("opened", FIRST_WAIT_SECONDS)
    assert state.reason == "unavailable"


def test_a_success_resets_the_run() -> None:
    state = BreakerState()
    step(state, failures(FAILURE_THRESHOLD - 1, "unknown"), 100.0)
    report = WorkerReport(provider_worked=True, trailing_failures=2, failure_reason="unknown")
    step(state, report, 100.1)
    assert state.run == 2
    assert not step(state, failures(FAILURE_THRESHOLD - 3, "unknown"), 100.2).event


def test_empty_reports_change_nothing() -> None:
    state = BreakerState()
    step(state, failures(7, "unknown"), 100.0)
    step(state, NOTHING, 100.1)
    assert state.run == 7


def test_one_worker_with_a_broken_network_does_not_stop_a_healthy_fleet() -> None:
    state = BreakerState()
    for tick in range(50):
        now = 100 + tick * 0.1
        assert not step(state, SUCCESS, now, "healthy").event
        assert not step(state, OUTAGE, now + 0.05, "broken").event
    assert step(state, OUTAGE, now + 0.05 + RECENT_SECONDS, "broken").event == "opened"


def test_a_workers_own_recent_success_does_not_prevent_opening() -> None:
    state = BreakerState()
    step(state, SUCCESS, 100.0)
    assert step(state, OUTAGE, 100.05).event == "opened"


def unauthorized(count: int, *, accepted: bool = False) -> WorkerReport:
    """Some messages were accepted or not, and after that `count` were answered with 401."""
    return WorkerReport(accepted, accepted=accepted, trailing_unauthorized=count)


def test_a_run_of_rejections_of_the_token_opens_it() -> None:
    state = BreakerState()
    assert not step(state, unauthorized(FAILURE_THRESHOLD - 1), 100.0, "a").event
    # What is no acceptance says nothing about the token.
    assert not step(state, SUCCESS, 100.1, "b").event
    assert step(state, unauthorized(1), 100.2, "b").event == "opened"
    assert (state.reason, state.unauthorized_run) == ("unauthorized", 0)


def test_an_acceptance_resets_the_run_of_rejections() -> None:
    state = BreakerState()
    step(state, unauthorized(FAILURE_THRESHOLD - 1), 100.0)
    assert not step(state, unauthorized(2, accepted=True), 100.1).event
    assert state.unauthorized_run == 2
    assert not step(state, unauthorized(FAILURE_THRESHOLD - 3), 100.2).event


def test_one_worker_with_an_old_token_does_not_stop_a_healthy_fleet() -> None:
    state = BreakerState()
    for tick in range(50):
        now = 100 + tick * 0.1
        assert not step(state, ACCEPTANCE, now, "healthy").event
        assert not step(state, UNAUTHORIZED, now + 0.05, "old").event
    # The last one is decided when the others are silent, without another message.
    assert step(state, NOTHING, now + 0.05 + RECENT_SECONDS, "old").event == "opened"


def test_after_a_rejected_token_only_a_probe_closes_it() -> None:
    state = opened(UNAUTHORIZED)
    assert state.reason == "unauthorized"
    assert not step(state, ACCEPTANCE, 100.9).event
    assert step(state, probe_request(1), 101.0).event == "probing"
    assert step(state, PROBE_SUCCESS, 101.1).event == "closed"


def test_a_response_to_an_earlier_request_closes_it_after_recent_seconds() -> None:
    state = opened()
    assert not step(state, SUCCESS, 100.0 + RECENT_SECONDS / 2).event
    assert step(state, SUCCESS, 100.0 + RECENT_SECONDS).event == "closed"
    assert state.until == 0


def test_failures_of_earlier_requests_do_not_lengthen_the_wait() -> None:
    state = opened()
    for now in (100.5, 101.5, 102.0):
        assert not step(state, OUTAGE, now).event
        assert state.opens == 1


def test_the_whole_fleet_gets_max_probes() -> None:
    state = opened()
    assert step(state, probe_request(9), 100.99).granted_probes == 0
    assert step(state, probe_request(2), 101.0, "a").event == "probing"
    assert step(state, probe_request(9), 101.0, "b").granted_probes == MAX_PROBES - 2
    assert step(state, probe_request(9), 101.1, "c").granted_probes == 0


def test_returned_probes_are_granted_to_other_workers() -> None:
    state = opened()
    step(state, probe_request(MAX_PROBES), 101.0, "a")
    step(state, WorkerReport(returned_probes=2), 101.2, "a")
    assert step(state, probe_request(9), 101.3, "b").granted_probes == 2


def test_new_probes_are_granted_after_the_probe_timeout() -> None:
    state = opened()
    step(state, probe_request(MAX_PROBES), 101.0, "killed")
    assert step(state, probe_request(1), 101.0 + PROBE_TIMEOUT - 0.1).granted_probes == 0
    assert step(state, probe_request(1), 101.0 + PROBE_TIMEOUT).granted_probes == 1


def test_failing_probes_double_the_wait_up_to_its_maximum() -> None:
    state = opened()
    waits = [FIRST_WAIT_SECONDS]
    for _ in range(9):
        now = state.until
        step(state, probe_request(1), now)
        result = step(state, PROBE_FAILURE, now)
        assert (result.event, state.reason) == ("opened", "unknown")
        # The other probes fail as well: that is the same failure.
        other = WorkerReport(trailing_failures=1, probe_failure="unknown")
        assert not step(state, other, now + 0.1).event
        waits.append(result.wait)
    assert all(later == min(MAX_WAIT_SECONDS, 2 * earlier) for earlier, later in pairwise(waits))
    assert waits[-1] == MAX_WAIT_SECONDS


def test_closing_the_breaker_resets_its_state() -> None:
    state = opened()
    step(state, PROBE_FAILURE, 101.0)
    step(state, PROBE_SUCCESS, 103.0)
    assert (state.until, state.opens, state.run, state.probes) == (0, 0, 0, 0)
    assert step(state, OUTAGE, 104.0).wait == FIRST_WAIT_SECONDS
