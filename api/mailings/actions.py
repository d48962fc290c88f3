"""Start, pause, resume and cancel a mailing, and retry its failed messages.

Each action locks the mailing's row first and commits a new state, which the workers then follow.
An action that is already done changes nothing; one that the state does not permit raises Conflict.
"""

from datetime import datetime
from typing import Any

import structlog

from api.actor import Actor
from api.audit_log import service as audit_log
from api.budgets import check_budget_left
from api.db import database_now, db, session_cursor
from api.enqueue import enqueue_dispatch, enqueue_launch
from api.errors import Conflict
from api.mailings.action_rules import FINISHED, PAUSED, RULES, RUNNING, SCHEDULED, Action
from api.mailings.dispatch_end import describe_margin, dispatch_end
from api.mailings.edit_rules import delay_launch
from api.mailings.service import find_mailing, mark_cancelled
from api.schemas.responses import format_instant
from shared.db.mailing_counts import read_mailing_counts
from shared.db.models import Mailing
from shared.db.policy import read_policy
from shared.domain.error_texts import error_text
from shared.domain.statuses import PauseReason

log = structlog.get_logger()


def start_mailing(mailing_id: int, actor: Actor) -> Mailing:
    """Start a scheduled mailing now, after the policy's launch delay.

    Repeating it does not extend the delay.
    """
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status in RULES[Action.START].done:
        return mailing
    now = _check_possible(mailing, Action.START)
    planned, waits_until = mailing.launch_at, mailing.launch_not_before
    is_repeated = mailing.start_at <= now
    mailing.start_at = min(mailing.start_at, now)
    delay_launch(mailing, now, read_policy(session_cursor()).launch_delay)
    if is_repeated and mailing.launch_at > planned:
        mailing.launch_not_before = waits_until
    if mailing.launch_at >= dispatch_end(mailing.end_at):
        raise Conflict(
            error_text(
                "The policy's launch delay would let the mailing start at %(launch_at)s, which is "
                "not before its end%(margin)s.",
                launch_at=format_instant(mailing.launch_at),
                margin=describe_margin(),
            ),
            "end_before_launch",
        )
    mailing.updated_at = now
    _commit(actor, mailing, "mailing.started")
    enqueue_launch(mailing, now, actor.request_id)
    return mailing


def pause_mailing(mailing_id: int, actor: Actor) -> Mailing:
    """Pause a mailing. A scheduled one that is paused does not start."""
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status in RULES[Action.PAUSE].done:
        return mailing
    mailing.updated_at = _check_possible(mailing, Action.PAUSE)
    mailing.status, mailing.pause_reason = PAUSED, PauseReason.MANUAL
    _commit(actor, mailing, "mailing.paused")
    return mailing


def resume_mailing(mailing_id: int, actor: Actor) -> Mailing:
    """Resume a paused mailing; one that had not started is scheduled again."""
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status in RULES[Action.RESUME].done:
        return mailing
    now = mailing.updated_at = _check_possible(mailing, Action.RESUME)
    _check_audience_limit(mailing)
    if mailing.pause_reason == PauseReason.BUDGET:
        check_budget_left(mailing.id, mailing.text)
    mailing.status = SCHEDULED if mailing.started_at is None else RUNNING
    mailing.pause_reason = None
    mailing.answer_round += 1
    _commit(actor, mailing, "mailing.resumed")
    if mailing.status == SCHEDULED:
        enqueue_launch(mailing, now, actor.request_id)
    else:
        enqueue_dispatch(mailing, actor.request_id)
    return mailing


def cancel_mailing(mailing_id: int, actor: Actor) -> Mailing:
    """Cancel a mailing for good."""
    mailing = find_mailing(mailing_id, lock=True)
    if mailing.status in RULES[Action.CANCEL].done:
        return mailing
    mark_cancelled(mailing, _check_possible(mailing, Action.CANCEL))
    _commit(actor, mailing, "mailing.cancelled")
    if not mailing.settled:
        enqueue_dispatch(mailing, actor.request_id)
    return mailing


def retry_failed_messages(mailing_id: int, actor: Actor) -> Mailing:
    """Make the failed messages pending again, with no attempts; a finished mailing runs again."""
    mailing = find_mailing(mailing_id, lock=True)
    # Read after the lock: counts that the same statement returned could be older than the lock.
    failed = read_mailing_counts(session_cursor(), mailing_id).failed
    if failed == 0 and mailing.retry_version > 0 and mailing.status in (RUNNING, PAUSED):
        return mailing
    now = _check_possible(mailing, Action.RETRY)
    if failed == 0:
        raise Conflict(error_text("No message of the mailing has failed."), "nothing_failed")
    mailing.retry_version += 1
    mailing.answer_round += 1
    mailing.settled = False
    mailing.updated_at = now
    if mailing.status == FINISHED:
        mailing.status = RUNNING
        mailing.finished_at = None
    _commit(actor, mailing, "mailing.retry_requested", messages=failed)
    enqueue_dispatch(mailing, actor.request_id)
    return mailing


def _check_possible(mailing: Mailing, action: Action) -> datetime:
    """Return the present instant, or raise Conflict if the mailing's state forbids the action."""
    rule = RULES[action]
    if mailing.status not in rule.possible:
        paused = (action, mailing.status) == (Action.START, PAUSED)
        raise Conflict(
            error_text(
                "The mailing is %(status)s: it cannot be %(done)s%(hint)s.",
                status=mailing.status,
                done=rule.participle,
                hint=error_text("; resume it instead") if paused else "",
            ),
            "action_impossible",
        )
    now = database_now()
    if rule.before_end and dispatch_end(mailing.end_at) <= now:
        raise Conflict(
            error_text(
                "The mailing's end%(margin)s has passed: it cannot be %(done)s.",
                margin=describe_margin(),
                done=rule.participle,
            ),
            "end_passed",
        )
    return now


def _check_audience_limit(mailing: Mailing) -> None:
    """Apply the present limits to a mailing that was over them; raise Conflict if it still is."""
    if mailing.pause_reason != PauseReason.AUDIENCE_LIMIT:
        return
    policy = read_policy(session_cursor())
    limits = [each for each in (mailing.max_audience, policy.max_audience) if each is not None]
    limit = min(limits, default=None)
    if limit is not None and mailing.audience > limit:
        raise Conflict(
            error_text(
                "The mailing would reach %(audience)s clients or more, and its limit is %(limit)s: "
                "raise max_audience of the mailing or of the policy first.",
                audience=mailing.audience,
                limit=limit,
            ),
            "audience_limit_exceeded",
        )
    mailing.policy_version, mailing.audience_limit = policy.version, limit


def _commit(actor: Actor, mailing: Mailing, event: str, **details: Any) -> None:
    db.session.flush()
    changes = {"status": mailing.status, **details}
    audit_log.record_change(actor, event.removeprefix("mailing."), "mailing", mailing.id, changes)
    db.session.commit()
    log.info(event, **details)
