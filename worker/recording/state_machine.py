"""What a report does to a message: pure rules, the heart of the books.

Accepted turns any status but `sent` into `sent`, whoever reports it and however late. Everything
else counts only while the reporter's token is the batch's, and moves only what is pending.
"""

from typing import NamedTuple

from shared.domain.statuses import MessageStatus, Reason


class Report(NamedTuple):
    """What a worker says became of one message.

    `accepted_at` (seconds since the epoch) is set exactly if the provider accepted it. Otherwise
    `ends` says how it ends (None: it is to be tried again), `burns` whether an attempt is used up,
    `doubt` whether it may have been delivered all the same.
    """

    message_id: int
    accepted_at: float | None = None
    ends: MessageStatus | None = None
    reason: str | None = None
    burns: bool = False
    doubt: bool = False
    attempt: "AttemptRow | None" = None


class AttemptRow(NamedTuple):
    """A request that was not accepted, as it is kept; `at` in seconds since the epoch."""

    at: float
    outcome: str
    reason: str
    http_status: int | None
    latency_ms: int
    excerpt: str
    phone: int | None
    text: str | None


class State(NamedTuple):
    """The part of a message that reports change."""

    status: str
    attempts: int
    in_doubt: bool
    reason: str | None
    sent_at: float | None = None


MAX_SMALLINT = 32_767


def transition(previous: State, report: Report, fenced: bool, max_attempts: int) -> State:
    """The message's state after `report`; the same object if nothing changes.

    `fenced` says that the reporter holds the batch: its token is the present one.
    """
    if previous.status == MessageStatus.SENT:
        return previous
    if report.accepted_at is not None:
        attempts = min(previous.attempts + 1, MAX_SMALLINT)
        return State(MessageStatus.SENT, attempts, False, None, report.accepted_at)
    if not fenced:
        return previous
    attempts = min(previous.attempts + report.burns, MAX_SMALLINT)
    in_doubt = previous.in_doubt or report.doubt
    if previous.status != MessageStatus.PENDING:
        return State(previous.status, attempts, in_doubt, previous.reason)
    if report.ends is not None:
        return State(report.ends, attempts, in_doubt, report.reason)
    if report.burns and attempts >= max_attempts:
        return State(MessageStatus.FAILED, attempts, in_doubt, Reason.ATTEMPTS)
    return State(MessageStatus.PENDING, attempts, in_doubt, None)
