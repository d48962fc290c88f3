"""Decide how a worker's report changes a message: pure rules, without a database.

An acceptance turns any status but `sent` into `sent`, whichever worker reports it and however late.
Every other report counts only while the reporting worker's token is the batch's present one, and
only a pending message changes its status by it.
"""

from typing import NamedTuple

from shared.domain.statuses import MessageStatus, Reason

REFUSING_OUTCOMES = ("rejected", "declined")


class AttemptRecord(NamedTuple):
    """A request that was not accepted, as stored in `attempts`; `at` in seconds since the epoch."""

    at: float
    outcome: str
    reason: str
    http_status: int | None
    latency_ms: int
    excerpt: str
    phone: int | None
    text: str | None

    @property
    def refused(self) -> bool:
        """The provider answered that it does not take this message."""
        return self.outcome in REFUSING_OUTCOMES


class MessageReport(NamedTuple):
    """The result of one request, or the reason why there was none.

    `accepted_at` (seconds since the epoch) is set exactly if the provider accepted the message.
    Otherwise `final_status` ends the message (None: it is tried again), `counts_attempt` states
    whether an attempt is used up, and `in_doubt` whether it may have been delivered nevertheless.
    """

    message_id: int
    accepted_at: float | None = None
    final_status: MessageStatus | None = None
    reason: str | None = None
    counts_attempt: bool = False
    in_doubt: bool = False
    attempt: AttemptRecord | None = None


class MessageState(NamedTuple):
    """The columns of a message that reports change."""

    status: str
    attempts: int
    in_doubt: bool
    reason: str | None
    sent_at: float | None = None

    @property
    def charged(self) -> bool:
        """The message was delivered, or may have been: its segments count."""
        return self.status == MessageStatus.SENT or self.in_doubt


MAX_SMALLINT = 32_767


def transition(
    previous: MessageState, report: MessageReport, fenced: bool, max_attempts: int
) -> MessageState:
    """Return the message's state after `report`: the same object if nothing changes.

    `fenced` is true if the reporting worker holds the batch: its token is the present one.
    """
    if previous.status == MessageStatus.SENT:
        return previous
    if report.accepted_at is not None:
        attempts = min(previous.attempts + 1, MAX_SMALLINT)
        return MessageState(MessageStatus.SENT, attempts, False, None, report.accepted_at)
    if not fenced:
        return previous
    attempts = min(previous.attempts + report.counts_attempt, MAX_SMALLINT)
    in_doubt = previous.in_doubt or report.in_doubt
    if previous.status != MessageStatus.PENDING:
        return MessageState(previous.status, attempts, in_doubt, previous.reason)
    if report.final_status is not None:
        return MessageState(report.final_status, attempts, in_doubt, report.reason)
    if report.counts_attempt and attempts >= max_attempts:
        return MessageState(MessageStatus.FAILED, attempts, in_doubt, Reason.ATTEMPTS)
    return MessageState(MessageStatus.PENDING, attempts, in_doubt, None)
