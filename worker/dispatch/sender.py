"""Sends messages to the provider and turns the results into reports.

Mailings take turns, a few messages at a time, and while several are due none occupies more than
half the slots. Results go to their batches as reports, and to the circuit breaker.
"""

from collections import defaultdict
from collections.abc import Callable

import structlog

from shared.domain.statuses import MessageStatus, Reason
from shared.domain.templates import RenderingError
from shared.file_limit import get_file_limit
from worker.dispatch.attempt_log import AttemptLog
from worker.dispatch.counters import DispatchCounters
from worker.dispatch.journal import Journal
from worker.dispatch.leased_batch import LeasedBatch, OutgoingMessage, ReservationTooSmall
from worker.dispatch.state import DispatchState
from worker.dispatch.unauthorized import UnauthorizedResults
from worker.provider.circuit_breaker import CircuitBreaker
from worker.provider.concurrency_limit import ConcurrencyLimit
from worker.provider.http.client import HttpClient, Result
from worker.provider.outcomes import Failure, Outcome
from worker.provider.rate_limiter import RateLimiter
from worker.provider.token import ProviderToken
from worker.recording.state_machine import AttemptRecord, MessageReport
from worker.runtime.clock import boottime

log = structlog.get_logger()

# Older rows are reloaded before they are used: a client may have been deleted or opted out since.
MAX_ROW_AGE_SECONDS = 1.0
# How many messages a mailing sends before it is another mailing's turn.
MESSAGES_PER_TURN = 8
# The pause after a 429 without Retry-After.
DEFAULT_THROTTLE_SECONDS = 5.0
# The pause after a connection could not be opened for want of a file descriptor.
NO_FILES_PAUSE_SECONDS = 0.5
_ACCEPTED = Outcome.ACCEPTED  # a constant is read faster than an enum's member


def make_send_check(breaker: CircuitBreaker) -> Callable[[OutgoingMessage], bool]:
    """Return the check that is made right before each request is sent."""

    def may_send(request: OutgoingMessage) -> bool:
        batch = request.batch
        now = boottime()
        return (
            now < batch.deadline
            and now < request.expires
            and batch.drain_reason is None
            and not batch.lost
            and (request.probe or breaker.allowance(now) is None)
        )

    return may_send


class Sender:
    """The part of a dispatcher that exchanges requests and responses with the provider.

    `wall_clock` returns the seconds since 1970. `reload_rows` fetches a batch's remaining messages
    again; `throttle` makes the whole fleet wait for some seconds.
    """

    def __init__(
        self,
        http_client: HttpClient[OutgoingMessage],
        wall_clock: Callable[[], float],
        state: DispatchState,
        breaker: CircuitBreaker,
        limiter: RateLimiter,
        concurrency: ConcurrencyLimit,
        counters: DispatchCounters,
        token: ProviderToken,
        reload_rows: Callable[[LeasedBatch], None],
        throttle: Callable[[float], None],
        journal: Journal | None = None,
    ):
        self._http_client, self._wall_clock, self._state = http_client, wall_clock, state
        self._breaker, self._limiter, self._counters = breaker, limiter, counters
        self._concurrency = concurrency
        self._reload_rows, self._throttle = reload_rows, throttle
        self._token, self._journal = token, journal
        self._paused_until = 0.0
        self._log = AttemptLog()
        self._unauthorized = UnauthorizedResults(http_client, breaker, self._report_unauthorized)

    def wanted_probes(self, now: float) -> int:
        """Return how many messages could be sent now if the breaker were half open."""
        if self._breaker.state == "closed":
            return 0
        return sum(len(batch.rows) for batch in self._state.batches if self._is_ready(batch, now))

    def send_due(self, now: float) -> None:
        """Fill the free slots with messages that may be sent now."""
        if not self._state.batches or self._http_client.free_slots <= 0 or now < self._paused_until:
            return
        allowance = self._breaker.allowance(now)
        if allowance == 0:
            return
        ready: dict[int, list[LeasedBatch]] = {}
        for batch in self._state.batches:
            if self._is_ready(batch, now):
                ready.setdefault(batch.mailing_id, []).append(batch)
        if not ready:
            return
        demands = {
            mailing_id: (batches[0].rate_limit, sum(len(batch.rows) for batch in batches))
            for mailing_id, batches in ready.items()
        }
        self._limiter.refill(demands, now)
        if allowance is None:
            self._send_in_turns(ready, now)
        else:
            self._send_probes(ready, allowance, now)

    def _send_in_turns(self, ready: dict[int, list[LeasedBatch]], now: float) -> None:
        several_due = len(ready.keys() | self._state.due_mailings.keys()) > 1
        slots = self._http_client.concurrency
        max_slots = max(1, slots // 2) if several_due else slots
        used_slots: dict[int, int] = defaultdict(int)
        for batch in self._state.batches:
            used_slots[batch.mailing_id] += batch.in_flight
        queue = sorted(ready, key=self._state.served_at)
        while queue and self._http_client.free_slots > 0:
            for mailing_id in list(queue):
                limit = min(
                    MESSAGES_PER_TURN,
                    max_slots - used_slots[mailing_id],
                    self._http_client.free_slots,
                )
                sent = self._send_messages(ready[mailing_id], limit, now)
                used_slots[mailing_id] += sent
                if sent < MESSAGES_PER_TURN:
                    queue.remove(mailing_id)

    def _is_ready(self, batch: LeasedBatch, now: float) -> bool:
        if not batch.rows or batch.drain_reason or batch.lost or batch.reloading:
            return False
        if not batch.check_deadline(now):
            return False
        if now - batch.read_at > MAX_ROW_AGE_SECONDS:
            self._reload_rows(batch)
            return False
        return True

    def _send_messages(self, batches: list[LeasedBatch], limit: int, now: float) -> int:
        """Send up to `limit` messages of one mailing; return how many."""
        sent = 0
        for batch in batches:
            while batch.rows and sent < limit:
                expires = self._limiter.acquire(batch.mailing_id, batch.rate_limit, now)
                if not expires:
                    return sent
                if batch.progress_at != now:
                    batch.progress_at = now
                    self._state.record_served(batch.mailing_id, now)
                sent += self._submit(batch, expires, probe=False)
        return sent

    def _send_probes(self, ready: dict[int, list[LeasedBatch]], probes: int, now: float) -> None:
        """Send a few requests from varying batches to test whether the provider works again."""
        batches = [batch for batches in ready.values() for batch in batches]
        for i in range(probes):
            batch = batches[(int(now * 1000) + i) % len(batches)]
            if not batch.rows or self._http_client.free_slots <= 0:
                continue
            if not self._limiter.has_slot(batch.mailing_id, batch.rate_limit, now):
                continue
            if not self._breaker.acquire_probe(now):
                return
            expires = self._limiter.acquire(batch.mailing_id, batch.rate_limit, now)
            batch.rows.rotate(-(int(now * 7919) % len(batch.rows)))
            if not self._submit(batch, expires, probe=True):
                self._breaker.record_outcome(Outcome.NOT_SENT, probe=True)

    def _submit(self, batch: LeasedBatch, expires: float, *, probe: bool) -> bool:
        """Submit the batch's next message; return False if it ends without a request."""
        row = batch.rows.popleft()
        batch.handled_ids.add(row.message_id)
        if row.phone is None or row.opted_out:
            batch.cancel_row(row)
            return False
        try:
            text, body_end = batch.render_text(row)
        except RenderingError as error:
            batch.fail_row(row, str(error))
            return False
        except ReservationTooSmall:
            return False  # pending for the next claim, which reserves more
        except Exception:  # the fault of one client's data must not stop the others
            ids = {"message_id": row.message_id, "client_id": row.client_id}
            log.exception("message.unusable", **ids, **batch.log_fields)
            batch.fail_row(row, Reason.CLIENT_DATA)
            return False
        phone = row.first_phone or row.phone
        body = b'{"id":%d,"phone":%d%b' % (row.message_id, phone, body_end)
        request = OutgoingMessage(row.message_id, body, batch.claim.request_id)
        request.batch = batch
        request.row = row
        request.phone = phone
        request.text = text
        request.expires = expires
        request.read_at = batch.read_at
        request.probe = probe
        self._http_client.submit(request)
        batch.in_flight += 1
        return True

    def process_results(self, results: list[Result[OutgoingMessage]]) -> None:
        """Turn the results of requests into reports and log lines."""
        if self._journal is not None:
            self._journal.append(results)
        booted_at = self._wall_clock() - boottime()
        breaker = self._breaker
        accepted_sent_at = breaker.accepted_sent_at
        for result in results:
            request = result.request
            batch, row, outcome = request.batch, request.row, result.outcome
            batch.in_flight -= 1
            if outcome is _ACCEPTED:
                breaker.record_outcome(outcome, probe=request.probe)
                batch.add_accepted(row.message_id, result.finished_at)
                if result.sent_at > accepted_sent_at:
                    accepted_sent_at = result.sent_at
            elif outcome is Outcome.NOT_SENT:
                batch.put_back(row, request.read_at)
                if request.probe:
                    breaker.record_outcome(outcome, probe=True)
                if result.reason == Failure.OPEN_FILES:
                    self._pause_without_files()
                continue
            elif outcome is Outcome.UNAUTHORIZED:
                self._record_unauthorized(result)
            else:
                breaker.record_outcome(outcome, probe=request.probe)
                self._report_not_accepted(result, outcome.counts_attempt)
                if not (outcome.provider_works or request.probe):
                    self._record_failure(result)
            latency = result.latency
            self._counters.count_outcome(outcome, latency)
            if latency and result.finished_at - latency - booted_at > batch.late_after:
                self._counters.count_late()
            self._log.add(batch, request, result)
        breaker.accepted_sent_at = accepted_sent_at
        self._log.write()

    def decide_unauthorized(self, now: float, *, stopping: bool, last: bool) -> None:
        """Report the 401 and 403 answers whose meaning is known by now; with `last`, all."""
        if self._unauthorized.undecided:
            self._unauthorized.decide(now, stopping=stopping, last=last)

    def _record_unauthorized(self, result: Result[OutgoingMessage]) -> None:
        request = result.request
        if result.sent_at < self._breaker.token_since:
            # It is about the token that has been replaced since.
            if request.probe:
                self._breaker.record_outcome(Outcome.NOT_SENT, probe=True)
        else:
            self._token.record_rejection()
            # A message whose earlier attempts failed says nothing about the token.
            if request.probe or not request.row.attempts:
                self._breaker.record_outcome(result.outcome, probe=request.probe)
        self._unauthorized.add(result)

    def _report_unauthorized(self, result: Result[OutgoingMessage], counts_attempt: bool) -> None:
        result.request.batch.has_unauthorized = True
        self._report_not_accepted(result, counts_attempt)

    def _report_not_accepted(self, result: Result[OutgoingMessage], counts_attempt: bool) -> None:
        request, outcome = result.request, result.outcome
        batch = request.batch
        rejected = outcome.final
        counts_attempt = rejected or (counts_attempt and not request.probe)
        if outcome is Outcome.THROTTLED:
            self._hold_fleet(result.retry_after)
        if not rejected:
            batch.attempts_used[request.message_id] = request.row.attempts + counts_attempt
            batch.client_ids[request.message_id] = request.row.client_id
            if counts_attempt:
                batch.has_retries = True
                batch.retry_after = max(batch.retry_after, result.retry_after or 0.0)
        batch.add_report(
            MessageReport(
                request.message_id,
                final_status=MessageStatus.FAILED if rejected else None,
                reason=f"{Reason.REJECTED}: {result.reason}" if rejected else None,
                counts_attempt=counts_attempt,
                in_doubt=outcome.in_doubt,
                attempt=AttemptRecord(
                    result.finished_at,
                    str(outcome),
                    result.reason,
                    result.http_status,
                    int(result.latency * 1000),
                    result.excerpt,
                    request.phone,
                    batch.plain_text if request.text is None else request.text,
                ),
            )
        )

    def _record_failure(self, result: Result[OutgoingMessage]) -> None:
        """Let the number in flight follow a failure that may come from too many requests."""
        now = boottime()
        reason = "throttled" if result.outcome is Outcome.THROTTLED else result.reason
        self._concurrency.record_failure(reason, now, now - result.latency, sent=result.sent)
        self._http_client.limit_concurrency(self._concurrency.limit)

    def _pause_without_files(self) -> None:
        """Send less while this process cannot open connections; the messages wait unchanged."""
        now = boottime()
        if now < self._paused_until:
            return
        self._paused_until = now + NO_FILES_PAUSE_SECONDS
        in_flight = self._http_client.in_flight
        log.error("worker.no_files", in_flight=in_flight, open_files=get_file_limit())
        self._concurrency.restrict(in_flight, now)
        self._http_client.limit_concurrency(self._concurrency.limit)

    def _hold_fleet(self, retry_after: float | None) -> None:
        """Make the fleet wait as the provider requested."""
        seconds = DEFAULT_THROTTLE_SECONDS if retry_after is None else retry_after
        now = boottime()
        if self._breaker.allowance(now) != 0:
            log.warning("provider.throttled", seconds=round(seconds, 3))
            self._throttle(seconds)
        self._breaker.hold_until(now + seconds)
