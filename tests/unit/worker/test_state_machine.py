"""The transitions of a message, for every state and every report."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.statuses import MessageStatus, Reason
from worker.recording.state_machine import MAX_SMALLINT, MessageReport, MessageState, transition

ENDED = ("failed", "expired", "cancelled")
MAX_ATTEMPTS = 3


def state(status: str, attempts: int = 0, in_doubt: bool = False) -> MessageState:
    reason = "some reason" if status in ENDED else None
    return MessageState(status, attempts, in_doubt, reason, 1.0 if status == "sent" else None)


# A sent message is never in doubt, which a constraint of the table ensures as well.
STATES = [
    state(status, attempts, in_doubt)
    for status, attempts, in_doubt in itertools.product(
        ("pending", "sent", *ENDED), (0, 1, 2, 3, 49, MAX_SMALLINT), (False, True)
    )
    if not (status == "sent" and in_doubt)
]
ACCEPTED = MessageReport(1, accepted_at=1234.5)
OTHER_REPORTS = [
    MessageReport(
        1,
        final_status=ends,
        reason="a reason" if ends else None,
        counts_attempt=counts_attempt,
        in_doubt=doubt,
    )
    for ends, counts_attempt, doubt in itertools.product(
        (None, MessageStatus.FAILED, MessageStatus.CANCELLED), (False, True), (False, True)
    )
]

states = st.sampled_from(STATES)
reports = st.sampled_from([ACCEPTED, *OTHER_REPORTS])
steps = st.lists(st.tuples(reports, st.booleans()), max_size=12)


@pytest.mark.parametrize("previous", STATES)
def test_acceptance_changes_every_status_but_sent(previous: MessageState) -> None:
    for fenced in (True, False):
        after = transition(previous, ACCEPTED, fenced, MAX_ATTEMPTS)
        if previous.status == "sent":
            assert after is previous
        else:
            attempts = min(previous.attempts + 1, MAX_SMALLINT)
            assert after == MessageState("sent", attempts, False, None, 1234.5)


@pytest.mark.parametrize("previous", STATES)
def test_only_an_acceptance_counts_without_the_token(previous: MessageState) -> None:
    for report in OTHER_REPORTS:
        assert transition(previous, report, False, MAX_ATTEMPTS) is previous


@pytest.mark.parametrize("previous", STATES)
def test_reports_of_the_holder_follow_the_table(previous: MessageState) -> None:
    for report in OTHER_REPORTS:
        check_transition(previous, report)


def check_transition(previous: MessageState, report: MessageReport) -> None:
    """Compare with the table of transitions, written in another way."""
    after = transition(previous, report, True, MAX_ATTEMPTS)
    if previous.status == "sent":
        assert after is previous
        return
    assert after.attempts == min(
        previous.attempts + (1 if report.counts_attempt else 0), MAX_SMALLINT
    )
    assert after.in_doubt is (previous.in_doubt or report.in_doubt)
    assert after.sent_at is None
    if previous.status in ENDED:
        expected = (previous.status, previous.reason)
    elif report.final_status:
        expected = (report.final_status, report.reason)
    elif report.counts_attempt and after.attempts >= MAX_ATTEMPTS:
        expected = ("failed", Reason.ATTEMPTS)
    else:
        expected = ("pending", None)
    assert (after.status, after.reason) == expected


@given(states, steps)
def test_invariants_hold_for_any_history(
    first: MessageState, history: list[tuple[MessageReport, bool]]
) -> None:
    """Sent is final, doubt lasts until sent, only an acceptance changes what has ended."""
    now, accepted = first, False
    for report, fenced in history:
        before, now = now, transition(now, report, fenced, MAX_ATTEMPTS)
        accepted = accepted or report.accepted_at is not None
        assert (now.status == "sent") == (accepted or first.status == "sent")
        assert (now.sent_at is not None) == (now.status == "sent")
        assert not (now.in_doubt and now.status == "sent")
        assert before.attempts <= now.attempts <= min(before.attempts + 1, MAX_SMALLINT)
        if before.status != "pending":
            assert now.status in (before.status, "sent")
        if before.in_doubt:
            assert now.in_doubt or now.status == "sent"
        if now.status in ("pending", "sent"):
            assert now.reason is None
        else:
            assert now.reason


@given(states, steps)
def test_acceptance_counts_once(
    first: MessageState, history: list[tuple[MessageReport, bool]]
) -> None:
    """Later reports change nothing, repeated acceptances included."""
    now = transition(first, ACCEPTED, False, MAX_ATTEMPTS)
    for report, fenced in history:
        assert transition(now, report, fenced, MAX_ATTEMPTS) is now


@given(st.integers(1, 60), st.integers(0, 60))
def test_message_fails_after_exactly_max_attempts(max_attempts: int, free: int) -> None:
    """Only failures count an attempt, throttled answers do not."""
    now = state("pending")
    for _ in range(free):
        now = transition(now, MessageReport(1), True, max_attempts)
    assert now == state("pending")
    failure = MessageReport(1, counts_attempt=True)
    for n in range(1, max_attempts + 1):
        assert now.status == "pending"
        now = transition(now, failure, True, max_attempts)
        assert now.attempts == n
    assert (now.status, now.reason) == ("failed", Reason.ATTEMPTS)


def test_throttled_answer_does_not_end_a_message_at_its_limit() -> None:
    """The limit may have been lowered: only a counted attempt ends the message."""
    at_limit = state("pending", 3)
    assert transition(at_limit, MessageReport(1), True, MAX_ATTEMPTS).status == "pending"
    assert (
        transition(at_limit, MessageReport(1, counts_attempt=True), True, MAX_ATTEMPTS).status
        == "failed"
    )
