"""The list of mailings, the page of one, and its actions, each after a confirmation."""

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from flask import Blueprint, abort, current_app, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from sqlalchemy import text
from werkzeug.wrappers import Response

from api.actor import Actor, current_actor
from api.admin.forms.field_errors import errors_from_service
from api.admin.presenters.formatting import MESSAGE_STATUSES
from api.admin.presenters.labels import ACTION_TEXTS, CONFLICT_TEXTS
from api.admin.presenters.live_figures import (
    MAILINGS_WITH_PARTS,
    is_late,
    read_snapshot,
    seconds_left,
)
from api.admin.presenters.mailing_list import ORDERS, WantedMailings, find_mailings
from api.admin.presenters.mailing_page import (
    chart_sent,
    group_failures,
    list_zones,
    map_local_hours,
)
from api.admin.presenters.policy_rules import describe_mailing_rules
from api.admin.presenters.recipients import find_attempts, find_recipients
from api.admin.presenters.text_versions import list_text_versions
from api.budgets import find_use
from api.db import database_now, fetch_all, session_cursor
from api.errors import Conflict, InvalidFields
from api.mailings import actions, service
from api.mailings.action_rules import Action, possible_actions
from api.mailings.dispatch_end import dispatch_end, end_margin
from api.policy.service import find_followed_limits
from api.schemas.limits import Limits
from shared.db.refusals import read_refusals
from shared.domain.statuses import MailingStatus

blueprint = Blueprint("mailings", __name__)

BY_ID = text(f"{MAILINGS_WITH_PARTS} AND m.id = :id")
ACTIONS: dict[str, Callable[[int, Actor], object]] = {
    Action.START: actions.start_mailing,
    Action.PAUSE: actions.pause_mailing,
    Action.RESUME: actions.resume_mailing,
    Action.RETRY: actions.retry_failed_messages,
    Action.CANCEL: actions.cancel_mailing,
    Action.DELETE: service.delete_mailing,
}


@blueprint.get("/mailings")
def list_mailings() -> str:
    wanted = WantedMailings.from_args(request.args)
    found: list[dict[str, Any]] = []
    more, counts, problem = None, dict[str, int](), None
    try:
        found, more, counts = find_mailings(wanted, request.args.get("before", ""))
    except InvalidFields as error:
        problem = errors_from_service(error)["q"]
    if any(row["status"] == "running" for row in found):
        _add_rates(found)
    return render_template(
        "admin/mailings.html",
        mailings=found,
        more=more,
        wanted=wanted,
        orders=ORDERS,
        counts=counts,
        total=sum(counts.values()),
        problem=problem,
        paged="before" in request.args,
    )


@blueprint.get("/mailings/<id:mailing_id>")
def show_mailing(mailing_id: int) -> str:
    row = _find_row(mailing_id)
    mailing = service.find_mailing(mailing_id)
    now = database_now()
    if not row["settled"]:
        _add_rates([row])
    status = request.args.get("status")
    if status not in MESSAGE_STATUSES:
        status = None
    zones = list_zones(mailing, now) if mailing.started_at else []
    recipients, last_id, problem = find_recipients(mailing_id, status, request.args)
    attempted = [recipient["id"] for recipient in recipients if recipient["attempts"]]
    return render_template(
        "admin/mailing.html",
        row=row,
        mailing=mailing,
        actions=possible_actions(row["status"], dispatch_end(mailing.end_at), row["failed"], now),
        action_texts=ACTION_TEXTS,
        dispatch_ends_at=dispatch_end(mailing.end_at) if end_margin() else None,
        seconds_left=seconds_left(row),
        refusals=read_refusals(session_cursor(), [mailing_id])[mailing_id],
        starts_in=_seconds_until_launch(row, now),
        rules=[*describe_mailing_rules(Limits.of(mailing), find_followed_limits(mailing))],
        budget_use=find_use(mailing_id) if mailing.budget else None,
        segment_price=current_app.config["SEGMENT_PRICE"],
        sent_chart=chart_sent(mailing_id),
        texts=list_text_versions(mailing),
        zones=zones,
        heat_map=map_local_hours(mailing_id, zones),
        failures=group_failures(mailing_id, row["failed"]) if status == "failed" else [],
        excluded=service.list_mailings_by_id(mailing.exclude_mailing_ids),
        recipients=recipients,
        last_id=last_id,
        recipients_problem=problem,
        attempts=find_attempts(mailing_id, attempted),
        status=status,
        phone=(request.args.get("phone") or "")[:30],
        paged="after" in request.args,
    )


@blueprint.get("/mailings/<id:mailing_id>/<action>")
def confirm_action(mailing_id: int, action: str) -> str:
    """Show the confirmation on a page of its own, for browsers without JavaScript."""
    _check_action(action)
    row = _find_row(mailing_id)
    return render_template(
        "admin/confirm.html", row=row, action=action, texts=ACTION_TEXTS[Action(action)]
    )


@blueprint.post("/mailings/<id:mailing_id>/<action>")
def perform_action(mailing_id: int, action: str) -> Response:
    _check_action(action)
    texts = ACTION_TEXTS[Action(action)]
    try:
        ACTIONS[action](mailing_id, current_actor())
    except Conflict as error:
        if error.code in CONFLICT_TEXTS:
            flash(str(CONFLICT_TEXTS[error.code]), "danger")
            return redirect(url_for(".show_mailing", mailing_id=mailing_id), 303)
        flash(
            _(
                "“%(action)s” is not possible any more: the mailing's state or end has changed "
                "meanwhile.",
                action=str(texts.label),
            ),
            "danger",
        )
        return redirect(url_for(".show_mailing", mailing_id=mailing_id), 303)
    flash(str(texts.success), "success")
    if action == Action.DELETE:
        return redirect(url_for(".list_mailings"), 303)
    return redirect(url_for(".show_mailing", mailing_id=mailing_id), 303)


def _seconds_until_launch(row: dict[str, Any], now: datetime) -> int | None:
    """Return how long the launch delay still holds a mailing; None if its start is later anyway."""
    launch_at: datetime = row["launch_at"]
    if row["status"] != MailingStatus.SCHEDULED or launch_at <= row["start_at"]:
        return None
    return max(0, math.ceil((launch_at - now).total_seconds()))


def _check_action(action: str) -> None:
    if action not in ACTIONS:
        abort(404)


def _find_row(mailing_id: int) -> dict[str, Any]:
    """Return a mailing with the parts of its audience, or abort with 404."""
    found = fetch_all(BY_ID, id=mailing_id)
    if not found:
        abort(404)
    return found[0]


def _add_rates(rows: list[dict[str, Any]]) -> None:
    """Add to each row its live rate, and whether the mailing ends too early at this rate."""
    live = read_snapshot()
    for row in rows:
        row["rate"] = live.mailings[row["id"]]["rate"] if row["id"] in live.mailings else None
        row["late"] = is_late(row, live.at)
