"""The list of mailings, the page of one, and the steps of its life, each asked for once more."""

from datetime import UTC, datetime
from inspect import unwrap
from typing import Any

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext
from sqlalchemy import text
from werkzeug.wrappers import Response

from api.admin.presenters.formatting import MESSAGE_STATUSES
from api.admin.presenters.recipients import attempts_of, recipients_of
from api.admin.views.live_updates import SPLIT, figures, is_late, seconds_left
from api.db import fetch_all
from api.errors import Conflict
from api.mailings.actions import (
    cancel_mailing,
    pause_mailing,
    resume_mailing,
    retry_failed,
    start_mailing,
)
from api.mailings.routes import delete_mailing, find_mailing
from shared.domain.send_windows import Window, is_open, next_opening
from shared.domain.statuses import MailingStatus

blueprint = Blueprint("mailings", __name__)

PAGE = 20
STATUSES = tuple(str(status) for status in MailingStatus)
LISTED = text(f"""
{SPLIT} AND g.id < :before
    AND (CAST(:status AS text) IS NULL OR g.status = CAST(:status AS mailing_status))
    AND (CAST(:words AS text) IS NULL OR g.name ILIKE :words OR g.text ILIKE :words)
ORDER BY g.id DESC LIMIT :n
""")
ONE = text(f"{SPLIT} AND g.id = :id")
COUNTS = text("SELECT status, count(*) AS n FROM mailings WHERE deleted_at IS NULL GROUP BY 1")
MINUTES = text("""
SELECT date_bin(make_interval(mins => :step), minute, :start) AS at, sum(count)::bigint AS n
FROM minutes WHERE mailing_id = :id AND status = 'sent' AND minute >= :start
GROUP BY 1 ORDER BY 1
""")
SPAN = text("""
SELECT min(minute) AS first, max(minute) AS last FROM minutes
WHERE mailing_id = :id AND status = 'sent'
""")
ZONES = text("""
SELECT timezone, sum(size)::bigint AS size, sum(pending)::bigint AS pending,
    sum(sent)::bigint AS sent
FROM batches WHERE mailing_id = :id GROUP BY 1 ORDER BY 2 DESC, 1
""")
BARS = 60
TITLES = text("SELECT id, name, text FROM mailings WHERE id = ANY (:ids) ORDER BY id")

# What can be done to a mailing: its view in the API, and in which states it makes sense.
ACTIONS: dict[str, tuple[Any, set[str]]] = {
    "start": (unwrap(start_mailing), {"scheduled"}),
    "pause": (unwrap(pause_mailing), {"scheduled", "running"}),
    "resume": (unwrap(resume_mailing), {"paused"}),
    "retry": (unwrap(retry_failed), {"running", "paused", "finished"}),
    "cancel": (unwrap(cancel_mailing), {"scheduled", "running", "paused"}),
    "delete": (unwrap(delete_mailing), set(STATUSES)),
}
WORDS = {
    "start": (
        lazy_gettext("Start now"),
        lazy_gettext("Start this mailing now?"),
        lazy_gettext("Sending begins at once, without waiting for the planned start."),
        lazy_gettext("The mailing starts."),
    ),
    "pause": (
        lazy_gettext("Pause"),
        lazy_gettext("Pause this mailing?"),
        lazy_gettext("Nothing more is sent within a second. You can resume it until its end."),
        lazy_gettext("The mailing is paused."),
    ),
    "resume": (
        lazy_gettext("Resume"),
        lazy_gettext("Resume this mailing?"),
        lazy_gettext("It goes on where it stopped. Nobody is written to twice."),
        lazy_gettext("The mailing goes on."),
    ),
    "retry": (
        lazy_gettext("Retry failed"),
        lazy_gettext("Try the failed messages again?"),
        lazy_gettext(
            "All messages that have failed are sent again, with their attempts counted anew."
        ),
        lazy_gettext("The failed messages are tried again."),
    ),
    "cancel": (
        lazy_gettext("Cancel mailing"),
        lazy_gettext("Cancel this mailing for good?"),
        lazy_gettext(
            "Nothing more is sent, and what is pending is cancelled. This cannot be undone."
        ),
        lazy_gettext("The mailing is cancelled."),
    ),
    "delete": (
        lazy_gettext("Delete"),
        lazy_gettext("Delete this mailing?"),
        lazy_gettext(
            "Its sending stops, and it leaves the lists and the statistics. This cannot be undone."
        ),
        lazy_gettext("The mailing is deleted."),
    ),
}


def actions_for(mailing: dict[str, Any]) -> list[str]:
    """What may be done to a mailing as it is now, the most likely first."""
    before_end = mailing["end_at"] > datetime.now(UTC)
    found = [name for name, (_view, states) in ACTIONS.items() if mailing["status"] in states]
    if not before_end:
        found = [name for name in found if name not in ("start", "resume", "retry")]
    if not mailing["failed"]:
        found = [name for name in found if name != "retry"]
    return found


@blueprint.get("/mailings")
def index() -> str:
    status = request.args.get("status") or None
    if status not in STATUSES:
        status = None
    words = (request.args.get("q") or "").replace("\x00", "").strip()[:200]
    before = request.args.get("before", "")
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    found = fetch_all(
        LISTED,
        before=int(before) if before.isdecimal() and len(before) < 19 else 2**62,
        status=status,
        words=f"%{escaped}%" if words else None,
        n=PAGE + 1,
    )
    known = figures() if any(row["status"] == "running" for row in found) else {}
    now = datetime.now(UTC)
    for row in found:
        row["rate"] = known[row["id"]]["rate"] if row["id"] in known else None
        row["late"] = is_late(row, now)
    counts = {row["status"]: row["n"] for row in fetch_all(COUNTS)}
    return render_template(
        "admin/mailings.html",
        mailings=found[:PAGE],
        more=found[PAGE - 1]["id"] if len(found) > PAGE else None,
        status=status,
        q=words,
        counts=counts,
        total=sum(counts.values()),
        paged=bool(before),
    )


@blueprint.get("/mailings/<id:mailing_id>")
def show(mailing_id: int) -> str:
    row = _find(mailing_id)
    mailing = find_mailing(mailing_id)
    known = figures().get(mailing_id) if not row["settled"] else None
    row["rate"] = known["rate"] if known else None
    row["late"] = is_late(row, datetime.now(UTC))
    status = request.args.get("status") or None
    if status not in MESSAGE_STATUSES:
        status = None
    listed, following, problem = recipients_of(mailing_id, status, request.args)
    return render_template(
        "admin/mailing.html",
        row=row,
        mailing=mailing,
        actions=actions_for(row),
        words=WORDS,
        seconds_left=seconds_left(row),
        minutes=_timeline(mailing_id),
        zones=_zones(mailing) if mailing.started_at else [],
        excluded=titles(mailing.exclude_mailing_ids),
        recipients=listed,
        following=following,
        recipients_problem=problem,
        attempts=attempts_of(mailing_id, [each["id"] for each in listed if each["attempts"]]),
        status=status,
        phone=(request.args.get("phone") or "")[:30],
        paged="after" in request.args,
    )


@blueprint.get("/mailings/<id:mailing_id>/<action>")
def ask(mailing_id: int, action: str) -> str | Response:
    """The confirmation, for those who came without JavaScript or by the keyboard."""
    _known(action)
    row = _find(mailing_id)
    return render_template("admin/confirm.html", row=row, action=action, words=WORDS[action])


@blueprint.post("/mailings/<id:mailing_id>/<action>")
def act(mailing_id: int, action: str) -> Response | tuple[str, int]:
    _known(action)
    _find(mailing_id)
    view, _states = ACTIONS[action]
    try:
        view(mailing_id)
    except Conflict:
        flash(refusal(action), "danger")
        return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)
    flash(str(WORDS[action][3]), "success")
    if action == "delete":
        return redirect(url_for("admin.mailings.index"), 303)
    return redirect(url_for("admin.mailings.show", mailing_id=mailing_id), 303)


def refusal(action: str) -> str:
    says: str = _(
        "“%(action)s” is not possible any more: the mailing's state or end has changed meanwhile.",
        action=str(WORDS[action][0]),
    )
    return says


def _known(action: str) -> None:
    if action not in ACTIONS:
        abort(404)


def _find(mailing_id: int) -> dict[str, Any]:
    found = fetch_all(ONE, id=mailing_id)
    if not found:
        abort(404)
    return found[0]


def titles(ids: list[int]) -> list[dict[str, Any]]:
    """What other mailings are called."""
    return fetch_all(TITLES, ids=ids) if ids else []


def _timeline(mailing_id: int) -> list[dict[str, Any]]:
    """How many were accepted, by minutes, or by as many minutes as make it readable."""
    span = fetch_all(SPAN, id=mailing_id)[0]
    if span["first"] is None:
        return []
    minutes = int((span["last"] - span["first"]).total_seconds() // 60) + 1
    step = next(s for s in (1, 5, 15, 60, 240, 1440, 10080, 10**6) if minutes <= s * BARS)
    found = fetch_all(MINUTES, id=mailing_id, step=step, start=span["first"])
    most = max((row["n"] for row in found), default=0) or 1
    return [
        {
            **row,
            "step": step,
            "x": int((row["at"] - span["first"]).total_seconds() // (60 * step)),
            "height": max(1.0, 100 * max(0, row["n"]) / most),
        }
        for row in found
    ]


def _zones(mailing: Any) -> list[dict[str, Any]]:
    """The zones of the audience, with the moment at which each one's window opens."""
    now = datetime.now(UTC)
    window = Window(mailing.window_from, mailing.window_to) if mailing.window_from else None
    found = fetch_all(ZONES, id=mailing.id)
    for row in found:
        row["open"] = is_open(window, row["timezone"], now)
        row["opens_at"] = next_opening(window, row["timezone"], now)
    return found
