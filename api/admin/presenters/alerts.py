"""What needs somebody's attention, the most urgent first: what it is, and what to do about it."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from flask import url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext, ngettext
from markupsafe import Markup
from sqlalchemy import text

from api.admin.presenters.fleet_health import STALE_SWEEP
from api.admin.presenters.formatting import instant
from api.admin.views.live_updates import is_late
from api.db import fetch_all

FAILED = text("""
SELECT id, name, text, failed, end_at FROM mailings
WHERE deleted_at IS NULL AND status = 'finished' AND failed > 0
    AND end_at > now() AND finished_at > now() - interval '7 days'
ORDER BY id DESC LIMIT 5
""")
THROTTLED = text("SELECT throttled_until FROM provider_state WHERE throttled_until > now()")
BROKEN_IMPORTS = text("""
SELECT id, created_at FROM imports
WHERE status = 'failed' AND created_at > now() - interval '1 day' ORDER BY id DESC LIMIT 3
""")
# A launch takes a second or two; later than this, nobody is at it.
OVERDUE = timedelta(seconds=30)
# A paused mailing whose end is nearer than this is about to be lost.
SOON = timedelta(hours=2)

BREAKER = {
    "unauthorized": (
        lazy_gettext("The provider does not accept our token."),
        lazy_gettext(
            "Nothing is sent. Have the token (PROVIDER_TOKEN) renewed; sending goes on by itself."
        ),
    ),
    "unavailable": (
        lazy_gettext("The provider cannot be reached."),
        lazy_gettext("Sending waits and goes on by itself as soon as it answers again."),
    ),
    "unknown": (
        lazy_gettext("The provider gives no clear answers."),
        lazy_gettext("Sending waits and goes on by itself as soon as it answers again."),
    ),
}


class Item(NamedTuple):
    """One thing to know: danger or warning, what it is, what follows, and where to look."""

    tone: str
    title: str
    detail: str | Markup
    address: str | None = None


def items(found: dict[int, dict[str, Any]], health: dict[str, Any]) -> list[Item]:
    now = datetime.now(UTC)
    listed = [*_of_services(found, health, now), *_of_mailings(found, now)]
    return sorted(listed, key=lambda item: item.tone != "danger")


def _of_services(
    found: dict[int, dict[str, Any]], health: dict[str, Any], now: datetime
) -> list[Item]:
    listed = []
    if health["state"] == "unseen":
        says = _("Nothing is lost: mailings start and go on when it is back.")
        listed.append(Item("danger", _("Redis cannot be reached."), says))
    elif health["state"] == "open":
        title, detail = BREAKER.get(health["reason"], BREAKER["unavailable"])
        listed.append(Item("danger", str(title), str(detail)))
    throttled = fetch_all(THROTTLED)
    if throttled:
        says = Markup("{} {}.").format(
            _("Sending goes on by itself at"), instant(throttled[0]["throttled_until"], "HH:mm:ss")
        )
        listed.append(Item("warning", _("The provider asks us to wait."), says))
    busy = any(row["status"] == "running" for row in found.values())
    if health.get("dispatchers") == 0 and busy:
        says = _("Mailings are running, and nobody sends them. Start dispatch workers.")
        listed.append(Item("danger", _("No worker is there."), says))
    if health["state"] != "unseen" and (health["swept"] is None or health["swept"] > STALE_SWEEP):
        says = _("Mailings may start late. Start the control worker and the scheduler.")
        listed.append(Item("danger", _("The sweep stands still."), says))
    for row in fetch_all(BROKEN_IMPORTS):
        address = url_for("admin.imports.show_import", import_id=row["id"])
        says = _("Send the file again: what was merged is found unchanged.")
        listed.append(Item("warning", _("An import has failed."), says, address))
    return listed


def _of_mailings(found: dict[int, dict[str, Any]], now: datetime) -> list[Item]:
    listed = []
    for row in found.values():
        if row["status"] == "running" and is_late(row, now):
            says = Markup("{} {}.").format(
                _("At the present rate it is not through before its end; the rest expires at"),
                instant(row["end_at"]),
            )
            listed.append(_about(row, "warning", says))
        elif row["status"] == "scheduled" and now - row["start_at"] > OVERDUE:
            listed.append(_about(row, "danger", _("Its start has come, and it has not started.")))
        elif row["status"] == "paused" and row["end_at"] - now < SOON:
            says = Markup("{} {}.").format(
                _("It is paused; what is left expires at"), instant(row["end_at"])
            )
            listed.append(_about(row, "warning", says))
    for row in fetch_all(FAILED):
        says = Markup("{} {} {}.").format(
            ngettext("%(num)s message has failed.", "%(num)s messages have failed.", row["failed"]),
            _("They can be tried again until"),
            instant(row["end_at"]),
        )
        listed.append(_about(row, "warning", says, "failed"))
    return listed


def _about(row: dict[str, Any], tone: str, says: str | Markup, status: str | None = None) -> Item:
    title = row["name"] or (row["text"] if len(row["text"]) < 61 else row["text"][:59] + "…")
    address = url_for("admin.mailings.show", mailing_id=row["id"], status=status)
    return Item(tone, title, says, address)
