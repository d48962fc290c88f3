"""A batch while a dispatcher holds it: what is left to hand off, what is out, what to record."""

import random
from collections import deque
from collections.abc import Iterable

import orjson

from shared.domain.send_windows import is_open, next_closing
from worker.dispatch.claim_queries import Claim, Row, Watched
from worker.provider.http.client import Request
from worker.recording.batch_report import BatchRelease, BatchReport
from worker.recording.state_machine import MessageReport
from worker.runtime.clock import DatabaseClock, boottime

BACKOFF_FIRST = 2.0
BACKOFF_LONGEST = 600.0
# The deadline errs on the early side; between asking it and leaving there may be a few moments.
LATE_TOLERANCE = 0.05


class Outgoing(Request):
    """A request with what the dispatcher must remember of it.

    `expires` is the boottime before which it must leave (its rate token's life);
    `read_at` is when its row was read; `text` is set if it is not the batch's plain text.
    """

    __slots__ = ("batch", "expires", "phone", "probe", "read_at", "row", "text")

    batch: "HeldBatch"
    row: Row
    phone: int
    text: str | None
    expires: float
    read_at: float
    probe: bool


class HeldBatch:
    """One claimed batch. `deadline` is the boottime after which nothing of it may leave."""

    def __init__(self, claim: Claim, clock: DatabaseClock, lease_seconds: float, margin: float):
        self.claim = claim
        self.mailing_id = claim.mailing_id
        self.rate_limit = claim.rate_limit
        self.rows: deque[Row] = deque(claim.rows)
        self.read_at = claim.lease_start
        self.reading = False
        self.handled: set[int] = set()
        self.in_flight = 0
        # The text that all get, and its end of a request; None if it is rendered for each client.
        self.plain = claim.template.plain
        self._tail = None if self.plain is None else text_tail(self.plain)
        # Why nothing more is handed off: "paused", "ended", "window", "stopping", ...
        self.draining: str | None = None
        # What each of its lines in the log says, and the same as the bytes within such a line.
        self.ids: dict[str, int | str] = {
            "mailing_id": claim.mailing_id,
            "batch_id": claim.batch_id,
            **({"request_id": claim.request_id} if claim.request_id else {}),
        }
        self.log_ids = orjson.dumps(self.ids)[1:-1] + b","
        self.retries = False
        # What was not accepted, though not for good: message → attempts used up by now.
        self.unaccepted: dict[int, int] = {}
        self.retry_after = 0.0
        self.progress_at = claim.lease_start
        self.lost = False
        self._accepted: list[tuple[int, float]] = []
        self._others: list[MessageReport] = []
        self._flushes = 0
        self._lease = lease_seconds - margin
        self._lease_deadline = 0.0
        self._close_deadline = 0.0
        self._end_deadline = 0.0
        # What left after this boottime left after the mailing's end. (Never.)
        self.late_after = 0.0
        self.deadline = 0.0
        self.watch(Watched("running", claim.end_at, claim.window, claim.rate_limit), clock)
        self.renew(claim.lease_start)

    def watch(self, mailing: Watched | None, clock: DatabaseClock) -> None:
        """Take in the mailing's present state; None says that it is gone."""
        if mailing is None or mailing.status != "running":
            self.draining = "deleted" if mailing is None else mailing.status
            return
        self.rate_limit = mailing.rate_limit
        self._end_deadline = clock.deadline(mailing.end_at)
        self.late_after = self._end_deadline + LATE_TOLERANCE
        self._close_deadline = float("inf")
        now = clock.earliest_now()
        if not is_open(mailing.window, self.claim.timezone, now):
            self._close_deadline = 0.0
        elif (closes := next_closing(mailing.window, self.claim.timezone, now)) is not None:
            self._close_deadline = clock.deadline(closes)
        self._set_deadline()

    def renew(self, asked_at: float) -> None:
        """The lease was renewed by a transaction that began after the boottime `asked_at`."""
        self._lease_deadline = asked_at + self._lease
        self._set_deadline()

    def _set_deadline(self) -> None:
        self.deadline = min(self._lease_deadline, self._close_deadline, self._end_deadline)

    def check_deadline(self, now: float) -> bool:
        """Whether something may leave now; if that is over for good, start draining."""
        if now < self.deadline:
            return True
        if now >= self._end_deadline:
            self.draining = self.draining or "ended"
        elif now >= self._close_deadline:
            self.draining = self.draining or "window"
        return False

    def reread(self, rows: Iterable[Row], asked_at: float) -> None:
        """Replace what is left by what was read after the boottime `asked_at`."""
        self.rows = deque(row for row in rows if row.message_id not in self.handled)
        self.read_at = asked_at
        self.reading = False

    def text_for(self, row: Row) -> tuple[str | None, bytes]:
        """The text for this row (None: the one that all get), and its end of a request.

        Raises RenderingError.
        """
        text = row.first_text
        if text is None:
            if self._tail is not None:
                return None, self._tail
            text = self.claim.template.render(row.values or {})
        return text, text_tail(text)

    def take_back(self, row: Row, read_at: float) -> None:
        """A message that did not leave is next again; what was read of it counts from then."""
        self.handled.discard(row.message_id)
        self.rows.appendleft(row)
        self.read_at = min(self.read_at, read_at)

    def accept(self, message_id: int, at: float) -> None:
        self._accepted.append((message_id, at))

    def report(self, report: MessageReport) -> None:
        self._others.append(report)

    @property
    def unrecorded(self) -> bool:
        return bool(self._accepted or self._others)

    @property
    def done(self) -> bool:
        """Nothing is out and nothing more will be handed off: it can be given back."""
        if self.in_flight:
            return False
        return self.lost or self.draining is not None or not (self.rows or self.reading)

    def flush(self, wait: float) -> BatchReport:
        """What to record now; it gives the batch back if it is done, due after `wait` seconds."""
        self._flushes += 1
        flush = BatchReport(
            self.mailing_id,
            self.claim.batch_id,
            self.claim.token,
            self._flushes,
            self._accepted,
            self._others,
            self._release(wait) if self.done else None,
        )
        self._accepted, self._others = [], []
        return flush

    def _release(self, wait: float) -> BatchRelease:
        if not self.retries:
            return BatchRelease(delay=wait, wait_for_window=self.draining == "window")
        delay = random.uniform(0, min(BACKOFF_LONGEST, BACKOFF_FIRST * 2**self.claim.attempt))  # noqa: S311
        if self.rows:
            # Most of it was never tried: the few that failed must not make the others late.
            delay = min(delay, BACKOFF_FIRST)
        return BatchRelease(delay=max(delay, self.retry_after, wait), backoff=True)


class Hand:
    """What a dispatcher has in hand: its batches, and what it knows of mailings that are due.

    `due` maps mailings that have a batch to claim to their own rate limit; `served` says when a
    mailing last had its turn, and `busy_at` when there last was something to do (boottimes).
    """

    def __init__(self) -> None:
        self.held: dict[tuple[int, int, int], HeldBatch] = {}  # by mailing, batch, token
        self.due: dict[int, int | None] = {}
        self.served: dict[int, float] = {}
        self.busy_at = boottime()

    def drain(self, why: str) -> None:
        """Hand nothing more off."""
        for batch in self.held.values():
            batch.draining = batch.draining or why


def text_tail(text: str) -> bytes:
    """The end of a request's body, the same for everybody who gets this text."""
    return b',"text":' + orjson.dumps(text) + b"}"
