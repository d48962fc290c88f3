"""The rules by which the circuit breaker opens, probes and closes, as a pure function.

The rules exist twice. The fleet shares one breaker in Redis, and only a script that Redis runs can
read and change it atomically in one round trip: circuit_breaker.lua. While Redis is unavailable,
each worker keeps a breaker of its own with the same rules: `apply_report` below. A property test
feeds both the same reports and compares every step; a change of a rule is made in both.

closed     Messages are sent. A run of FAILURE_THRESHOLD failures opens the breaker, and so does a
           run of as many rejections of the token (401, 403) without an accepted message between
           them: a rejection of one recipient is no verdict on the token.
open       Nothing is sent for FIRST_WAIT_SECONDS, doubled each time up to MAX_WAIT_SECONDS.
half open  The wait is over: the fleet may send MAX_PROBES messages. The first that shows the
           provider to work closes the breaker; the first that fails opens it again. If none is
           answered within the probe timeout (their worker was killed), new ones are granted.

Outcomes arrive in reports, ten a second from each worker, so their order across workers is not
known. A run counts only if no *other* worker saw the provider work within RECENT_SECONDS: one
worker with a broken network must not stop a healthy fleet. A run of rejections of the token waits
for as long, and the workers that observed it send nothing meanwhile.

Why these values:

* FAILURE_THRESHOLD 20: a provider that fails three requests in ten at random, or answers three
  recipients in ten with 401, produces such a run once in 3e10 requests.
* FIRST_WAIT_SECONDS 1, MAX_WAIT_SECONDS 60: the duration of a restart, and what an operator
  accepts as a delay after an outage. Up to a tenth is added at random, so that two fleets do not
  probe in step.
* MAX_PROBES 3: one lost or unlucky probe does not cost another wait, and three do not overload a
  recovering provider.
* RECENT_SECONDS 0.2: two reports' time. Also the age an open breaker must have before the response
  to an earlier request may close it. A rejected token is cleared by a probe only.
"""

from dataclasses import dataclass

FAILURE_THRESHOLD = 20
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0
MAX_PROBES = 3
RECENT_SECONDS = 0.2
UNAUTHORIZED = "unauthorized"


@dataclass(slots=True)
class WorkerReport:
    """What one worker observed since its last report, and how many probes it wants."""

    provider_worked: bool = False  # at least one outcome showed that the provider works
    trailing_failures: int = 0  # failures after the last such outcome
    failure_reason: str = ""  # of the newest failure
    accepted: bool = False  # at least one message was accepted, so the token is valid
    trailing_unauthorized: int = 0  # rejections of the token after the last acceptance
    probe_worked: bool = False
    probe_failure: str = ""  # the reason
    returned_probes: int = 0  # unused or without a result: other workers may have them
    wanted_probes: int = 0


@dataclass(slots=True)
class BreakerState:
    """The breaker's state; instants are seconds of one clock, 0 means never."""

    until: float = 0.0  # 0: closed; else open until then and half open afterwards
    opened_at: float = 0.0
    opens: int = 0  # in a row, without closing in between
    reason: str = ""
    run: int = 0  # consecutive failures
    unauthorized_run: int = 0  # consecutive rejections of the token
    probes: int = 0  # granted in this half-open period
    probing_since: float = 0.0
    worked_by: str = ""  # the worker that last saw the provider work, and when
    worked_at: float = 0.0
    other_worked_at: float = 0.0  # when a worker before it last did
    accepted_by: str = ""  # the same for the worker whose message was last accepted
    accepted_at: float = 0.0
    other_accepted_at: float = 0.0


@dataclass(slots=True)
class Transition:
    """The effect of a report."""

    event: str = ""  # opened, closed, probing or none
    wait: float = 0.0  # seconds
    granted_probes: int = 0


def apply_report(
    state: BreakerState,
    report: WorkerReport,
    worker: str,
    now: float,
    probe_timeout: float,
    wait_factor: float,
) -> Transition:
    """Apply a report to `state`. `wait_factor` (1.0 to 1.1) is the random part of a wait."""
    result = Transition()
    others_worked_at = state.other_worked_at if state.worked_by == worker else state.worked_at
    if report.provider_worked:
        if state.worked_by != worker:
            state.other_worked_at, state.worked_by = state.worked_at, worker
        state.worked_at = now
    others_accepted_at = (
        state.other_accepted_at if state.accepted_by == worker else state.accepted_at
    )
    if report.accepted:
        if state.accepted_by != worker:
            state.other_accepted_at, state.accepted_by = state.accepted_at, worker
        state.accepted_at = now

    def open_breaker(reason: str) -> None:
        state.opens += 1
        doubled = FIRST_WAIT_SECONDS * 2 ** min(state.opens - 1, 10)
        result.event, result.wait = "opened", wait_factor * min(MAX_WAIT_SECONDS, doubled)
        state.until, state.opened_at, state.reason = now + result.wait, now, reason
        state.run = state.unauthorized_run = state.probes = 0
        state.probing_since = 0.0

    if not state.until:
        if report.provider_worked or report.trailing_failures:
            if now - others_worked_at < RECENT_SECONDS:
                state.run = 0
            else:
                earlier = 0 if report.provider_worked else state.run
                state.run = earlier + report.trailing_failures
        if report.accepted:
            state.unauthorized_run = 0
        state.unauthorized_run += report.trailing_unauthorized
        doubted = state.unauthorized_run >= FAILURE_THRESHOLD
        if doubted and now - others_accepted_at >= RECENT_SECONDS:
            open_breaker(UNAUTHORIZED)
        elif state.run >= FAILURE_THRESHOLD:
            open_breaker(report.failure_reason)
    elif report.probe_worked or (
        report.provider_worked
        and state.reason != UNAUTHORIZED
        and now - state.opened_at >= RECENT_SECONDS
    ):
        result.event = "closed"
        state.until = state.opened_at = state.probing_since = 0.0
        state.opens = state.run = state.unauthorized_run = state.probes = 0
    elif report.probe_failure and now >= state.until:
        open_breaker(report.probe_failure)

    if state.until and now >= state.until:
        if state.probing_since and now - state.probing_since >= probe_timeout:
            state.probes, state.probing_since = 0, 0.0
        state.probes = max(0, state.probes - report.returned_probes)
        result.granted_probes = min(report.wanted_probes, MAX_PROBES - state.probes)
        if result.granted_probes:
            if not state.probing_since:
                state.probing_since, result.event = now, "probing"
            state.probes += result.granted_probes
    return result
