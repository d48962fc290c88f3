"""Tells the fleet, after a commit, that a mailing has something to do. Never fails, nor waits."""

from flask import Flask, current_app, g

from shared.db.models import Mailing
from shared.domain.statuses import MailingStatus
from shared.queues import Queues


def init_wake(app: Flask, redis_url: str) -> None:
    app.extensions["queues"] = Queues.connect(redis_url)


def queues() -> Queues:
    found: Queues = current_app.extensions["queues"]
    return found


def launch(mailing: Mailing) -> None:
    """Have a scheduled mailing launched at its start; at once if that has come."""
    queues().launch(mailing.id, at=mailing.start_at, request_id=g.request_id)


def wake(mailing: Mailing) -> None:
    """Have the fleet look at a mailing whose state has changed."""
    if mailing.status == MailingStatus.RUNNING and not mailing.audience_complete:
        queues().launch(mailing.id, request_id=g.request_id)
    queues().dispatch(mailing.id, request_id=g.request_id)
