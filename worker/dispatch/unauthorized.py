"""Decides whether a 401 or 403 used up an attempt of its message.

Such an answer may be about the token or about one recipient. It is about the recipient if a message
that was sent later was accepted with the same token: then it counts as an attempt. Otherwise the
message is returned as if it had not been tried, and so it is if the token has been replaced since
it was sent. Answers to later messages come after the one in
question, so the decision waits for them.
"""

from collections.abc import Callable
from typing import NamedTuple

from worker.dispatch.leased_batch import OutgoingMessage
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.http.client import HttpClient, Result
from worker.runtime.clock import boottime

# A batch that is done otherwise waits this long for an acceptance of a later message, and twice as
# long as the answer in question took.
WAIT_SECONDS = 1.0


class UndecidedResult(NamedTuple):
    """A 401 or 403. `wait_until`: boottime from which it is decided if nothing is in flight.

    `decide_by`: by then everything that was in flight beside it has been answered.
    """

    result: Result[OutgoingMessage]
    wait_until: float
    decide_by: float


class UnauthorizedResults:
    """The results whose meaning is not decided. `report(result, counts_attempt)` reports one."""

    def __init__(
        self,
        http_client: HttpClient[OutgoingMessage],
        breaker: CircuitBreaker,
        report: Callable[[Result[OutgoingMessage], bool], None],
    ):
        self._http_client, self._breaker, self._report = http_client, breaker, report
        self.undecided: list[UndecidedResult] = []

    def add(self, result: Result[OutgoingMessage]) -> None:
        """Keep a result until it is decided; its batch is not released before."""
        result.request.batch.undecided += 1
        now = boottime()
        wait_until = now + WAIT_SECONDS + 2 * result.latency
        decide_by = now + self._http_client.timeout
        self.undecided.append(UndecidedResult(result, wait_until, decide_by))

    def decide(self, now: float, *, stopping: bool, last: bool) -> None:
        """Report what can be decided; with `last`, everything. `stopping`: wait for nothing new."""
        undecided, self.undecided = self.undecided, []
        stopped = stopping or self._breaker.allowance(now) == 0
        idle = not self._http_client.in_flight
        for entry in undecided:
            result, batch = entry.result, entry.result.request.batch
            accepted_later = self._breaker.accepted_after(result.sent_at)
            token_replaced = result.sent_at < self._breaker.token_since
            done = batch.lost or batch.drain_reason is not None or not batch.rows
            late = now >= entry.decide_by or (idle and (stopped or now >= entry.wait_until))
            if accepted_later or token_replaced or last or (late and (stopped or done)):
                batch.undecided -= 1
                self._report(result, accepted_later)
            else:
                self.undecided.append(entry)
