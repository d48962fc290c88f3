"""Filters and functions of the templates: instants, numbers, durations, phones and states."""

import hashlib
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

from babel.dates import get_timezone_location
from babel.numbers import format_compact_decimal
from babel.units import format_unit
from flask import Flask, current_app, g
from flask_babel import (
    format_currency,
    format_date,
    format_datetime,
    format_decimal,
    get_locale,
    get_timezone,
    lazy_gettext,
)
from flask_babel import gettext as _
from markupsafe import Markup, escape

from api.admin.preferences import LANGUAGES, choose_theme, return_target
from api.admin.presenters.import_errors import COLUMN_LABELS
from api.admin.presenters.labels import (
    AUDIT_ACTIONS,
    FIELD_LABELS,
    OUTCOMES,
    PAUSE_REASONS,
    describe_reason,
)
from api.admin.presenters.live_figures import PARTS, seconds_left
from shared.domain.send_windows import UnknownTimeZone, find_zone

PART_NAMES = {
    "sent": lazy_gettext("Accepted by the provider"),
    "due": lazy_gettext("To be sent now"),
    "waiting": lazy_gettext("Waiting for permitted hours"),
    "retrying": lazy_gettext("Retrying"),
    "failed": lazy_gettext("Failed"),
    "expired": lazy_gettext("Expired"),
    "opted_out": lazy_gettext("Opted out"),
    "cancelled": lazy_gettext("Cancelled"),
}
PART_MEANINGS = {
    "sent": lazy_gettext(
        "The provider has accepted these messages. Whether they were delivered is not known."
    ),
    "due": lazy_gettext("Ready to be sent, or being sent by a worker."),
    "waiting": lazy_gettext("It is outside the permitted hours in these clients' time zones."),
    "retrying": lazy_gettext(
        "The provider has not accepted them yet; they will be tried again automatically."
    ),
    "failed": lazy_gettext(
        "Rejected by the provider, or out of attempts. Each message shows its reason."
    ),
    "expired": lazy_gettext("The mailing ended before they could be sent."),
    "opted_out": lazy_gettext("These clients have opted out: nothing is sent to them."),
    "cancelled": lazy_gettext("They were cancelled before they were sent."),
}
MAILING_STATUSES = {
    "scheduled": lazy_gettext("Scheduled"),
    "running": lazy_gettext("Running"),
    "paused": lazy_gettext("Paused"),
    "finished": lazy_gettext("Finished"),
    "cancelled": lazy_gettext("Cancelled"),
}
MESSAGE_STATUSES = {
    "pending": lazy_gettext("Pending"),
    "sent": PART_NAMES["sent"],
    "failed": PART_NAMES["failed"],
    "expired": PART_NAMES["expired"],
    "cancelled": PART_NAMES["cancelled"],
    # Not a status of the API: the cancelled messages with this reason.
    "opted_out": PART_NAMES["opted_out"],
}
ROLE_NAMES = {
    "viewer": lazy_gettext("Viewer"),
    "operator": lazy_gettext("Operator"),
    "admin": lazy_gettext("Administrator"),
}
# A version of the static files: browsers cache the files of a version for good.
VERSION = hashlib.sha256(
    b"".join(file.read_bytes() for file in sorted((Path(__file__).parents[1] / "static").iterdir()))
).hexdigest()[:12]
PROVIDER_STATES = {
    "working": lazy_gettext("Working"),
    "idle": lazy_gettext("Nothing to send"),
    "open": lazy_gettext("Not working"),
    "throttled": lazy_gettext("Asks us to wait"),
    "unseen": lazy_gettext("Not known"),
}
CODE_BEFORE_DIGIT = re.compile(r"(?<=[A-Z])(?=\d)")
# The unit, its seconds, and the seconds from which the next one is used.
DURATION_UNITS = (
    ("second", 1, 60),
    ("minute", 60, 3600),
    ("hour", 3600, 48 * 3600),
    ("day", 86400, float("inf")),
)
BAR_WIDTH = 1000  # in the units of the drawing


def init_template_functions(app: Flask) -> None:
    """Add the filters, functions and labels that templates use."""
    app.jinja_env.filters.update(
        instant=render_instant,
        day=format_day,
        number=format_number,
        duration=format_duration,
        phone=format_phone,
        percent=format_percent,
        reason=describe_reason,
        milliseconds=format_milliseconds,
        money=format_money,
        compact=format_compact,
    )
    app.jinja_env.globals.update(
        PARTS=PARTS,
        PART_NAMES=PART_NAMES,
        PART_MEANINGS=PART_MEANINGS,
        MAILING_STATUSES=MAILING_STATUSES,
        MESSAGE_STATUSES=MESSAGE_STATUSES,
        PROVIDER_STATES=PROVIDER_STATES,
        ROLE_NAMES=ROLE_NAMES,
        OUTCOMES=OUTCOMES,
        IMPORT_COLUMNS=COLUMN_LABELS,
        AUDIT_ACTIONS=AUDIT_ACTIONS,
        FIELD_LABELS=FIELD_LABELS,
        PAUSE_REASONS=PAUSE_REASONS,
        LANGUAGES=LANGUAGES,
        bar=bar_parts,
        zone_name=zone_name,
        seconds_left=seconds_left,
        language=lambda: str(get_locale() or "en"),
        person=lambda: g.get("person"),
        person_key=person_key,
        theme=choose_theme,
        here_again=return_target,
        icon=render_icon,
        version=VERSION,
        from_moscow=moscow_offset,
    )


def person_key() -> str:
    """Return what tells people apart in their browsers, where drafts are kept for one of them."""
    identity = f"{g.person.issuer}#{g.person.subject}"
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


@lru_cache(maxsize=128)
def render_icon(name: str) -> Markup:
    """Return a drawing of Bootstrap Icons, hidden from screen readers: text beside it names it."""
    sprite = (files("flask_bootstrap") / "static/bootstrap5/icons/bootstrap-icons.svg").read_text()
    drawing = sprite.partition(f' id="{name}">')[2].partition("</symbol>")[0]
    if not drawing:
        raise LookupError(f"there is no icon {name}")
    return Markup(  # noqa: S704 (the package's own drawing)
        f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{drawing}</svg>'
    )


def render_instant(value: datetime | None, pattern: str = "d MMM y, HH:mm") -> Markup | str:
    """Return an instant in the viewer's time zone, with UTC on hover."""
    if value is None:
        return "—"
    utc = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        utc.isoformat(timespec="seconds"),
        utc.strftime("%Y-%m-%d %H:%M:%S"),
        escape(format_datetime(value, pattern)),
    )


def format_day(value: date) -> str:
    """Return a calendar day: 28 Nov 2026."""
    return str(format_date(value, "d MMM y"))


def local_datetime_value(value: datetime) -> str:
    """Return an instant as the value of a datetime-local field, in the viewer's time zone."""
    return value.astimezone(get_timezone()).strftime("%Y-%m-%dT%H:%M")


def zone_name() -> str:
    """Return the viewer's time zone and its present offset: Europe/Moscow (UTC+03:00)."""
    zone = str(get_timezone())
    if zone == "UTC":
        return zone
    offset = datetime.now(ZoneInfo(zone)).isoformat(timespec="minutes")[-6:].replace("-", "−")
    return f"{zone} (UTC{offset})"


def moscow_offset(zone: str) -> str:
    """Return the difference of a zone's clock from Moscow's: MSK+4; nothing if it is unknown."""
    now = datetime.now(UTC)
    try:
        there = now.astimezone(find_zone(zone)).utcoffset()
    except UnknownTimeZone:
        return ""
    moscow = now.astimezone(ZoneInfo("Europe/Moscow")).utcoffset()
    if there is None or moscow is None:
        return ""
    return str(_("MSK")) + format_offset(there - moscow)


def format_offset(offset: timedelta) -> str:
    """Return a difference of clocks: +3, −3:30, or nothing."""
    hours, minutes = divmod(abs(round(offset.total_seconds() / 60)), 60)
    if not offset:
        return ""
    return f"{'+' if offset > timedelta() else '−'}{hours}" + (f":{minutes:02}" if minutes else "")


def zone_label(zone: str) -> str:
    """Return a time zone by its city and its present offset: Москва, UTC+3."""
    city = zone
    if "/" in zone:
        city = get_timezone_location(zone, locale=get_locale(), return_city=True)
    try:
        offset = datetime.now(UTC).astimezone(find_zone(zone)).utcoffset()
    except UnknownTimeZone:
        return city
    shown = "UTC" + format_offset(offset or timedelta())
    return shown if city == shown else f"{city}, {shown}"


def format_number(value: float | None) -> str:
    return "—" if value is None else str(format_decimal(value))


def format_compact(value: int) -> str:
    """Return a number in few characters: 1,234 or 56K."""
    if value < 10_000:
        return format_number(value)
    return str(format_compact_decimal(value, locale=get_locale()))


def format_money(value: Decimal) -> str:
    """Return an amount with the currency of CURRENCY, as the reader's language writes it."""
    currency: str | None = current_app.config["CURRENCY"]
    if currency is None:
        return str(format_decimal(value, "#,##0.00"))
    # Babel does not insert the space that CLDR asks for between a code and a digit.
    return CODE_BEFORE_DIGIT.sub("\xa0", format_currency(value, currency))


def format_percent(part: int, whole: int) -> str:
    """Return a share that is 100 % only if it is complete, and 0 % only if it is empty."""
    if not whole or not part:
        return "0 %"
    if part == whole:
        return "100 %"
    shown = min(99.9, max(0.1, 100 * part / whole))
    return f"{format_decimal(round(shown, 1 if shown < 1 or shown > 99 else 0))} %"


def format_milliseconds(value: float | None) -> str:
    """Return a latency: 12 ms, 1.4 s."""
    if value is None:
        return "—"
    if value >= 1000:
        return str(_("%(n)s s", n=format_decimal(round(value / 1000, 1))))
    return str(_("%(n)s ms", n=format_decimal(round(value, 1 if value < 10 else 0))))


def format_duration(seconds: float | None, length: Literal["long", "short"] = "long") -> str:
    """Return a duration in its largest unit: 3 minutes, or 3 min."""
    if seconds is None:
        return "—"
    unit, size = next((unit, size) for unit, size, end in DURATION_UNITS if seconds < end)
    shown = max(1, round(seconds / size))
    return str(format_unit(shown, unit, length, locale=get_locale()))


def format_phone(value: int | str | None) -> str:
    """Return a phone in groups: +7 916 123-45-67."""
    d = str(value or "")
    return f"+{d[0]} {d[1:4]} {d[4:7]}-{d[7:9]}-{d[9:]}" if len(d) == 11 else d or "—"


def bar_parts(row: Any) -> list[tuple[str, float, float]]:
    """Return the parts of a stacked bar as name, left edge and width."""
    whole, placed = row["audience"] or 1, 0
    parts = []
    for name in PARTS:
        parts.append((name, BAR_WIDTH * placed / whole, BAR_WIDTH * row[name] / whole))
        placed += row[name]
    return parts
