"""Alerts of the dashboard: conditions that need attention, with what to do about each."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flask import g, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext
from markupsafe import Markup
from sqlalchemy import text

from api.admin.presenters.braked import describe_braked
from api.admin.presenters.fleet_health import MAX_SWEEP_AGE
from api.admin.presenters.formatting import render_instant
from api.admin.presenters.live_figures import Snapshot, find_braked, is_late
from api.admin.presenters.plurals import ngettext
from api.db import fetch_all
from api.mailings.dispatch_end import dispatch_end, end_margin
from shared.domain.statuses import PauseReason

FAILED = text("""
SELECT id, name, text, failed, end_at FROM mailings
WHERE deleted_at IS NULL AND status = 'finished' AND failed > 0
    AND end_at > now() + :end_margin AND finished_at > now() - interval '7 days'
ORDER BY id DESC LIMIT 5
""")
THROTTLED = text("SELECT throttled_until FROM provider_state WHERE throttled_until > now()")
FAILED_IMPORTS = text("""
SELECT id, created_at FROM imports
WHERE status = 'failed' AND created_at > now() - interval '1 day' ORDER BY id DESC LIMIT 3
""")
# A launch takes a second or two; after this time it is missing.
MAX_LAUNCH_DELAY = timedelta(seconds=30)
# A paused mailing whose end is nearer than this is about to expire.
PAUSED_END_NOTICE = timedelta(hours=2)

BREAKER = {
    "unauthorized": (
        lazy_gettext("The provider does not accept our token."),
        lazy_gettext(
            "Nothing is sent. Have the token (PROVIDER_TOKEN) renewed; sending resumes by itself."
        ),
    ),
    "unavailable": (
        lazy_gettext("The provider cannot be reached."),
        lazy_gettext("Sending waits and resumes by itself as soon as the provider answers again."),
    ),
    "unknown": (
        lazy_gettext("The provider gives no clear answers."),
        lazy_gettext("Sending waits and resumes by itself as soon as the provider answers again."),
    ),
}


class Alert(NamedTuple):
    """One alert: `danger` or `warning`, what has happened, what to do, and where to look."""

    tone: str
    title: str
    detail: str | Markup
    address: str | None = None


def find_alerts(snapshot: Snapshot, now: datetime) -> list[Alert]:
    """Return the present alerts, the most urgent first."""
    alerts = [*_find_service_alerts(snapshot, now), *_find_mailing_alerts(snapshot, now)]
    return sorted(alerts, key=lambda alert: alert.tone != "danger")


def token_expiry(snapshot: Snapshot) -> datetime | None:
    """Return when the provider's token expires; None if that is not known."""
    expires_at = snapshot.health.get("token_expires_at")
    return None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)


def _find_service_alerts(snapshot: Snapshot, now: datetime) -> Iterator[Alert]:
    health = snapshot.health
    if health["state"] == "unseen":
        detail = _("Nothing is lost: mailings start and continue when it is back.")
        yield Alert("danger", _("Redis cannot be reached."), detail)
    elif health["state"] == "open":
        title, detail = BREAKER.get(health["reason"], BREAKER["unavailable"])
        yield Alert("danger", str(title), str(detail))
    expires_at = token_expiry(snapshot)
    if expires_at is not None and now.timestamp() >= health["token_renew_at"]:
        yield _token_alert(expires_at, now)
    for row in fetch_all(THROTTLED):
        until = render_instant(row["throttled_until"], "HH:mm:ss")
        detail = Markup("{} {}.").format(_("Sending resumes by itself at"), until)
        yield Alert("warning", _("The provider asks us to wait."), detail)
    running = any(row["status"] == "running" for row in snapshot.mailings.values())
    if health.get("dispatchers") == 0 and running:
        detail = _("Mailings are running, but no worker sends them. Start dispatch workers.")
        yield Alert("danger", _("No dispatch worker is running."), detail)
    if health["state"] != "unseen" and (health["swept"] is None or health["swept"] > MAX_SWEEP_AGE):
        detail = _("Mailings may start late. Start the sweep worker and the scheduler.")
        yield Alert("danger", _("The sweep is not running."), detail)
    for row in fetch_all(FAILED_IMPORTS):
        address = url_for("admin.imports.show_import", import_id=row["id"])
        detail = _("Import the file again: clients who are in already stay as they are.")
        yield Alert("warning", _("An import has failed."), detail, address)


def _token_alert(expires_at: datetime, now: datetime) -> Alert:
    if expires_at <= now:
        title = _("The provider's token has expired.")
        detail = _(
            "Put a new one into PROVIDER_TOKEN or its file. No attempt is used up meanwhile. "
            "It expired"
        )
    else:
        title = _("The provider's token expires soon.")
        detail = _("Put a new one into PROVIDER_TOKEN or its file in time. It expires")
    text = Markup("{} {}.").format(detail, render_instant(expires_at))
    return Alert("danger" if expires_at <= now else "warning", title, text)


def _find_mailing_alerts(snapshot: Snapshot, now: datetime) -> Iterator[Alert]:
    for mailing_id, answers in describe_braked(find_braked(snapshot)).items():
        detail = _("It is paused: the provider refuses too many of its messages.")
        yield _mailing_alert(snapshot.mailings[mailing_id], "danger", f"{detail} {answers}")
    for row in snapshot.mailings.values():
        if row["status"] == "running" and is_late(row, now):
            yield _mailing_alert(
                row,
                "warning",
                _("At this rate it will not finish in time; the rest expires at"),
                row["end_at"],
            )
        elif row["status"] == "scheduled" and now - row["launch_at"] > MAX_LAUNCH_DELAY:
            if g.get("stop_banner") is None:  # else the banner says why
                yield _mailing_alert(
                    row, "danger", _("Its start time has passed, and it has not started.")
                )
        elif row["pause_reason"] == PauseReason.AUDIENCE_LIMIT:
            yield _mailing_alert(
                row,
                "danger",
                _("It would reach too many clients, and nothing was sent. It expires at"),
                row["end_at"],
            )
        elif row["status"] == "paused" and row["end_at"] - now < PAUSED_END_NOTICE:
            yield _mailing_alert(
                row, "warning", _("It is paused; what is left expires at"), row["end_at"]
            )
    for row in fetch_all(FAILED, end_margin=end_margin()):
        failed = ngettext(
            "%(num)s message has failed.", "%(num)s messages have failed.", row["failed"]
        )
        retry = _("They can be retried until")
        until = dispatch_end(row["end_at"])
        yield _mailing_alert(row, "warning", f"{failed} {retry}", until, "failed")


def _mailing_alert(
    row: dict[str, Any],
    tone: str,
    detail: str,
    until: datetime | None = None,
    status: str | None = None,
) -> Alert:
    """Return an alert about a mailing, whose detail ends with the instant `until`."""
    title = row["name"] or (row["text"] if len(row["text"]) < 61 else row["text"][:59] + "…")
    address = url_for("admin.mailings.show_mailing", mailing_id=row["id"], status=status)
    text = Markup("{} {}.").format(detail, render_instant(until)) if until else detail
    return Alert(tone, title, text, address)
