"""When the breaker opens, probes and closes, one report at a time."""

from itertools import pairwise

from worker.provider.circuit_breaker_rules import (
    BASE_WAIT,
    FRESH,
    MAX_WAIT,
    PROBES,
    THRESHOLD,
    Change,
    Report,
    State,
    transition,
)

PROBE_TIMEOUT = 15.0
BAD = Report(tail=THRESHOLD, reason="unavailable")


def step(state: State, report: Report, now: float, worker: str = "a") -> Change:
    return transition(state, report, worker, now, PROBE_TIMEOUT, 1.0)


def opened(reason: str = "unavailable") -> State:
    state = State()
    report = Report(unauthorized=True) if reason == "unauthorized" else BAD
    assert step(state, report, 100.0).event == "opened"
    return state


def test_it_opens_after_a_run_over_all_workers() -> None:
    state = State()
    assert not step(state, Report(tail=THRESHOLD - 1, reason="unknown"), 100.0, "a").event
    change = step(state, Report(tail=1, reason="unavailable"), 100.1, "b")
    assert (change.event, change.wait, state.reason) == ("opened", BASE_WAIT, "unavailable")


def test_an_answer_that_shows_the_provider_works_resets_the_run() -> None:
    state = State()
    step(state, Report(tail=THRESHOLD - 1, reason="unknown"), 100.0)
    step(state, Report(worked=True, tail=2, reason="unknown"), 100.1)
    assert state.run == 2
    assert not step(state, Report(tail=THRESHOLD - 3, reason="unknown"), 100.2).event


def test_reports_of_nothing_change_nothing() -> None:
    state = State()
    step(state, Report(tail=7, reason="unknown"), 100.0)
    step(state, Report(), 100.1)
    assert state.run == 7


def test_one_sick_worker_does_not_stop_a_fleet_that_is_well() -> None:
    state = State()
    for tick in range(50):
        now = 100 + tick * 0.1
        assert not step(state, Report(worked=True), now, "well").event
        assert not step(state, BAD, now + 0.05, "sick").event
    assert step(state, BAD, now + 0.05 + FRESH, "sick").event == "opened"


def test_a_workers_own_earlier_success_is_no_excuse() -> None:
    state = State()
    step(state, Report(worked=True), 100.0)
    assert step(state, BAD, 100.05).event == "opened"


def test_a_refused_token_opens_at_once_and_only_a_probe_clears_it() -> None:
    state = opened("unauthorized")
    assert state.reason == "unauthorized"
    assert not step(state, Report(worked=True), 100.9).event
    assert step(state, Report(probes_wanted=1), 101.0).event == "probing"
    assert step(state, Report(worked=True, probe_worked=True), 101.1).event == "closed"


def test_an_answer_to_an_earlier_request_closes_it_once_it_is_certainly_new() -> None:
    state = opened()
    assert not step(state, Report(worked=True), 100.0 + FRESH / 2).event
    assert step(state, Report(worked=True), 100.0 + FRESH).event == "closed"
    assert state.until == 0


def test_failures_of_earlier_requests_do_not_lengthen_the_wait() -> None:
    state = opened()
    for now in (100.5, 101.5, 102.0):
        assert not step(state, BAD, now).event
        assert state.opens == 1


def test_only_so_many_probes_go_over_the_whole_fleet() -> None:
    state = opened()
    assert step(state, Report(probes_wanted=9), 100.99).granted == 0
    assert step(state, Report(probes_wanted=2), 101.0, "a").event == "probing"
    assert step(state, Report(probes_wanted=9), 101.0, "b").granted == PROBES - 2
    assert step(state, Report(probes_wanted=9), 101.1, "c").granted == 0


def test_probes_given_back_go_to_others() -> None:
    state = opened()
    step(state, Report(probes_wanted=PROBES), 101.0, "a")
    step(state, Report(probes_returned=2), 101.2, "a")
    assert step(state, Report(probes_wanted=9), 101.3, "b").granted == 2


def test_probes_that_vanish_wedge_nothing() -> None:
    state = opened()
    step(state, Report(probes_wanted=PROBES), 101.0, "killed")
    assert step(state, Report(probes_wanted=1), 101.0 + PROBE_TIMEOUT - 0.1).granted == 0
    assert step(state, Report(probes_wanted=1), 101.0 + PROBE_TIMEOUT).granted == 1


def test_failing_probes_double_the_wait_up_to_its_maximum() -> None:
    state = opened()
    waits = [BASE_WAIT]
    for _ in range(9):
        now = state.until
        step(state, Report(probes_wanted=1), now)
        change = step(state, Report(tail=1, probe_failed="unknown", reason="unknown"), now)
        assert (change.event, state.reason) == ("opened", "unknown")
        # The other probes fail as well: that is the same failure.
        assert not step(state, Report(tail=1, probe_failed="unknown"), now + 0.1).event
        waits.append(change.wait)
    assert all(later == min(MAX_WAIT, 2 * earlier) for earlier, later in pairwise(waits))
    assert waits[-1] == MAX_WAIT


def test_after_closing_everything_begins_anew() -> None:
    state = opened()
    step(state, Report(tail=1, probe_failed="unknown", reason="unknown"), 101.0)
    step(state, Report(worked=True, probe_worked=True), 103.0)
    assert (state.until, state.opens, state.run, state.probes) == (0, 0, 0, 0)
    assert step(state, BAD, 104.0).wait == BASE_WAIT
