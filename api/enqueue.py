"""Enqueue jobs after a commit. An unreachable Redis neither raises an error nor causes a wait."""

from datetime import datetime

from flask import Flask, current_app

from shared.db.models import Mailing
from shared.domain.statuses import MailingStatus
from shared.queues import Queues


def init_queues(app: Flask, redis_url: str) -> None:
    app.extensions["queues"] = Queues.connect(redis_url)


def job_queues() -> Queues:
    """Return the application's connection to the job queues."""
    queues: Queues = current_app.extensions["queues"]
    return queues


def enqueue_launch(mailing: Mailing, now: datetime, request_id: str | None) -> None:
    """Enqueue the launch of a scheduled mailing for its time; at once if that has passed.

    `now` is an instant of PostgreSQL's clock.
    """
    delay = (mailing.launch_at - now).total_seconds()
    job_queues().enqueue_launch(mailing.id, delay, request_id)


def enqueue_dispatch(mailing: Mailing, request_id: str | None) -> None:
    """Enqueue the jobs that act on a mailing's changed state.

    A running mailing whose audience is incomplete also gets a launch job.
    """
    if mailing.status == MailingStatus.RUNNING and not mailing.audience_complete:
        job_queues().enqueue_launch(mailing.id, request_id=request_id)
    job_queues().wake_dispatchers(mailing.id, request_id=request_id)
