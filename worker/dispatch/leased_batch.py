"""A leased batch: the messages to send, the requests in flight, and the outcomes to record."""

import random
from collections import deque
from collections.abc import Iterable

import orjson

from shared.domain.segments import count_segments
from shared.domain.send_windows import UnknownTimeZone, is_open, next_closing
from shared.domain.statuses import MessageStatus, Reason
from shared.domain.stop_rule import AnswerCounts, StopRule
from worker.dispatch.claimed_batch import ClaimedBatch, MessageRow
from worker.dispatch.watch import MailingSnapshot
from worker.provider.http.client import Request
from worker.recording.batch_report import BatchRelease, BatchReport
from worker.recording.state_machine import MessageReport
from worker.runtime.clock import DatabaseClock

FIRST_BACKOFF_SECONDS = 2.0
MAX_BACKOFF_SECONDS = 600.0
# Deadlines are early rather than late; between checking one and sending a few moments may pass.
LATE_TOLERANCE_SECONDS = 0.05

BatchKey = tuple[int, int, int]  # mailing id, batch id, token


class OutgoingMessage(Request):
    """A request with what the dispatcher needs together with its result.

    `expires` is the boottime before which it must be sent (the end of its rate slot); `read_at` is
    when its row was read; `text` is None if it is the batch's plain text.
    """

    __slots__ = ("batch", "expires", "phone", "probe", "read_at", "row", "text")

    batch: "LeasedBatch"
    row: MessageRow
    phone: int
    text: str | None
    expires: float
    read_at: float
    probe: bool


class ReservationTooSmall(Exception):
    """A message has more segments than were reserved for it: it waits for the next claim."""


class LeasedBatch:
    """One claimed batch. `deadline` is the boottime from which nothing of it may be sent.

    `safety_margin`: seconds before the end of the lease in which nothing is sent, so that what is
    in flight can be recorded. `end_margin`: likewise before the mailing's end.
    """

    def __init__(
        self,
        claim: ClaimedBatch,
        clock: DatabaseClock,
        lease_seconds: float,
        safety_margin: float,
        end_margin: float = 0.0,
    ):
        self.claim = claim
        self.mailing_id = claim.mailing_id
        self.key: BatchKey = (claim.mailing_id, claim.batch_id, claim.token)
        self.rate_limit = claim.rate_limit
        self.rows: deque[MessageRow] = deque(claim.rows)
        self.handled_ids: set[int] = set()  # of the messages taken from `rows`
        self.read_at = claim.lease_start
        self.reloading = False
        self.in_flight = 0
        self.undecided = 0  # answers whose meaning depends on later ones: see unauthorized.py
        # The same text for every client, and its end of a request's body; None if personalised.
        self.plain_text = claim.template.plain
        self._plain_body_end = None if self.plain_text is None else encode_body_end(self.plain_text)
        self._text_segments = None if self.plain_text is None else count_segments(self.plain_text)
        self._segments: dict[int, int] = {}  # of personalised texts, by message id
        self._reservations = claim.reservations
        # The budgets that apply, as they were when they were first looked at.
        self._budgets: list[str] | None = None
        # Why nothing more is sent: "paused", "ended", "window", "stopping", ...
        self.drain_reason: str | None = None
        # The fields of each of its log lines, and the same as bytes within such a line.
        self.log_fields: dict[str, int | str] = {
            "mailing_id": claim.mailing_id,
            "batch_id": claim.batch_id,
            **({"request_id": claim.request_id} if claim.request_id else {}),
        }
        self.log_fields_json = orjson.dumps(self.log_fields)[1:-1] + b","
        self.has_retries = self.has_unauthorized = False
        # Of messages that were not accepted and are not final: message id → attempts used up.
        self.attempts_used: dict[int, int] = {}
        self.client_ids: dict[int, int] = {}
        self.retry_after = 0.0
        self.progress_at = claim.lease_start
        self.lost = False
        # The mailing's rule on refusals, the round in which its answers are counted, and how many
        # messages were refused since the last report.
        self.stop_rule = StopRule.from_json(claim.stop_when)
        self.answer_round = claim.answer_round
        self.refused = 0
        self.refused_mailings: set[int] = set()  # the brake's: see add_batch there
        self._held = False
        # The mailing has a window, and whether it is open in the batch's zone cannot be known.
        self.zone_unknown = False
        self._accepted: list[tuple[int, float]] = []
        self._message_reports: list[MessageReport] = []
        self._report_number = 0
        self._usable_lease, self._end_margin = lease_seconds - safety_margin, end_margin
        self._lease_deadline = self._close_deadline = self._end_deadline = 0.0
        # A message sent after this boottime was sent after the mailing's end. (Never.)
        self.late_after = 0.0
        self.deadline = 0.0
        snapshot = MailingSnapshot(
            "running",
            claim.end_at,
            claim.rate_limit,
            claim.window,
            claim.answer_round,
        )
        self.update_mailing(snapshot, clock)
        self.renew_lease(claim.lease_start)

    def update_mailing(self, mailing: MailingSnapshot | None, clock: DatabaseClock) -> None:
        """Apply the mailing's present state; None if it no longer exists."""
        if mailing is None or mailing.status != "running":
            self.drain_reason = "deleted" if mailing is None else mailing.status
            return
        self.rate_limit = mailing.rate_limit
        self.answer_round = mailing.answer_round
        if mailing.limits is not None:
            self.stop_rule = StopRule.from_json(mailing.limits.stop_when)
        if mailing.budgets is not None:
            self._follow_budgets(mailing.budgets)
        ends = clock.deadline(mailing.end_at)
        self._end_deadline = ends - self._end_margin
        self.late_after = ends + LATE_TOLERANCE_SECONDS
        self._close_deadline = float("inf")
        now = clock.earliest_now()
        try:
            if not is_open(mailing.window, self.claim.timezone, now):
                self._close_deadline = 0.0
            elif (closes := next_closing(mailing.window, self.claim.timezone, now)) is not None:
                self._close_deadline = clock.deadline(closes)
        except UnknownTimeZone:
            self._close_deadline, self.zone_unknown = 0.0, True
        self._set_deadline()

    def _follow_budgets(self, budgets: list[str]) -> None:
        """Drain a batch whose reservation does not follow the present budgets."""
        unreserved = bool(budgets) and self._reservations is None
        if unreserved or self._budgets not in (None, budgets):
            self.drain("budget")
        self._budgets = budgets

    def renew_lease(self, started_at: float) -> None:
        """Extend the lease, renewed by a transaction that began after the boottime `started_at`."""
        self._lease_deadline = started_at + self._usable_lease
        self._set_deadline()

    def hold(self) -> None:
        """Send nothing until `release_hold`; requests that have not left yet are put back."""
        self._held = True
        self._set_deadline()

    def release_hold(self) -> None:
        """Send again."""
        self._held = False
        self._set_deadline()

    def _set_deadline(self) -> None:
        earliest = min(self._lease_deadline, self._close_deadline, self._end_deadline)
        self.deadline = 0.0 if self._held else earliest

    def check_deadline(self, now: float) -> bool:
        """Return whether messages may be sent now; drain the batch after its end or window."""
        if now < self.deadline:
            return True
        if now >= self._end_deadline:
            self.drain("ended")
        elif now >= self._close_deadline:
            self.drain("window")
        return False

    def drain(self, reason: str) -> None:
        """Stop sending, so that the batch is released; the first reason is kept."""
        self.drain_reason = self.drain_reason or reason

    def cancel_row(self, row: MessageRow) -> None:
        """End a message whose client was deleted or has opted out."""
        reason = Reason.CLIENT_DELETED if row.phone is None else Reason.OPTED_OUT
        self.add_report(
            MessageReport(row.message_id, final_status=MessageStatus.CANCELLED, reason=reason)
        )

    def fail_row(self, row: MessageRow, reason: str) -> None:
        """End a message that cannot be sent."""
        self.add_report(
            MessageReport(row.message_id, final_status=MessageStatus.FAILED, reason=reason)
        )

    def fail_rows(self, reason: str) -> None:
        """End all messages that were not sent yet."""
        while self.rows:
            row = self.rows.popleft()
            self.handled_ids.add(row.message_id)
            if row.phone is None or row.opted_out:
                self.cancel_row(row)
            else:
                self.fail_row(row, reason)

    def put_back(self, row: MessageRow, read_at: float) -> None:
        """Make a message that was not sent the next one; `read_at`: when its row was read."""
        self.handled_ids.discard(row.message_id)
        self.rows.appendleft(row)
        self.read_at = min(self.read_at, read_at)

    def replace_rows(self, rows: Iterable[MessageRow], read_at: float) -> None:
        """Replace the remaining messages by rows that were read after the boottime `read_at`."""
        self.rows = deque(row for row in rows if row.message_id not in self.handled_ids)
        if self._reservations is not None:
            self.rows = deque(row for row in self.rows if row.message_id in self._reservations)
        self.read_at = read_at
        self.reloading = False

    def render_text(self, row: MessageRow) -> tuple[str | None, bytes]:
        """Return the text for a message (None: the plain text), and the end of its request's body.

        Raises RenderingError, and ReservationTooSmall if the text is longer than at the claim.
        """
        text = row.first_text
        if text is None:
            if self._plain_body_end is not None:
                return None, self._plain_body_end
            text = self.claim.template.render(row.values or {})
        if self._text_segments is None:
            n = self._segments[row.message_id] = count_segments(text)
            if self._reservations is not None and n > self._reservations[row.message_id]:
                raise ReservationTooSmall
        return text, encode_body_end(text)

    def add_accepted(self, message_id: int, at: float) -> None:
        """Add an accepted message to the next report; `at` in seconds since 1970."""
        self._accepted.append((message_id, at))

    def add_report(self, report: MessageReport) -> None:
        """Add any other outcome to the next report."""
        self._message_reports.append(report)
        if report.attempt is not None and report.attempt.refused:
            self.refused += 1
            self.refused_mailings.add(self.mailing_id)

    @property
    def has_unrecorded(self) -> bool:
        """Whether there are outcomes for the next report."""
        return bool(self._accepted or self._message_reports)

    @property
    def unreported_answers(self) -> AnswerCounts:
        """The provider's answers for the next report."""
        return AnswerCounts(len(self._accepted), self.refused)

    @property
    def done(self) -> bool:
        """Nothing is in flight and nothing more will be sent: the batch can be released."""
        if self.in_flight or self.undecided:
            return False
        return self.lost or self.drain_reason is not None or not (self.rows or self.reloading)

    def make_report(self, wait: float, *, last: bool) -> BatchReport:
        """Return the outcomes to record; releases the batch if done, due after `wait` seconds.

        `last`: no other batch of the mailing is leased or known to be due.
        """
        self._report_number += 1
        done = self.done
        report = BatchReport(
            *self.key,
            self._report_number,
            self._accepted,
            self._message_reports,
            self._make_release(wait) if done else None,
            last and done,
            text_segments=self._text_segments,
            segments=self._segments,
            answer_round=None if self.stop_rule is None else self.answer_round,
        )
        self._accepted, self._message_reports, self.refused = [], [], 0
        return report

    def _make_release(self, wait: float) -> BatchRelease:
        # While the breaker is open, the token is rejected: the batch waits for it alone.
        if not (self.has_retries or (self.has_unauthorized and not wait)):
            return BatchRelease(delay=wait, wait_for_window=self.drain_reason == "window")
        backoff = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**self.claim.attempt)
        delay = random.uniform(0, backoff)  # noqa: S311
        if self.rows:
            # Most messages were never tried: the few that failed must not delay the others.
            delay = min(delay, FIRST_BACKOFF_SECONDS)
        return BatchRelease(delay=max(delay, self.retry_after, wait), backoff=True)


def encode_body_end(text: str) -> bytes:
    """Return the end of a request's body, from the text on."""
    return b',"text":' + orjson.dumps(text) + b"}"
