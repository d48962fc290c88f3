"""The preview of a mailing: whom it would reach, in how many SMS, for how much and in what time."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from flask import Blueprint, current_app
from pydantic import ConfigDict, Field

from api.db import database_now, session_cursor, use_one_snapshot
from api.mailings.routes import draft
from api.mailings.schemas import NewMailing
from api.mailings.text_preview import Renderings, render_for
from api.openapi.operation import operation
from api.schemas import examples
from api.schemas.responses import ResponseModel, format_instant
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS, audience_parameters
from shared.db.models import Mailing
from shared.db.rows import fetch_one_row
from shared.domain.scopes import Scope
from shared.domain.segments import measure_segments
from shared.domain.send_windows import Window, next_opening
from shared.domain.templates import MAX_RENDERED_LENGTH, compile_template

blueprint = Blueprint("preview", __name__)

SHOWN_TAGS = 20

# Counted once by all three, and summed up from there: the clients are read a single time.
AUDIENCE = f"""
WITH counted AS MATERIALIZED (
    SELECT operator_code, timezone, tag, count(*) AS n FROM clients WHERE {AUDIENCE_CONDITION} GROUP BY 1, 2, 3
)
SELECT 'operator_code', operator_code, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL SELECT 'timezone', timezone, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL (SELECT 'tag', tag, sum(n)::bigint FROM counted GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT %(tags_shown)s)
"""  # noqa: S608, E501 (AUDIENCE_CONDITION is a constant)
# A big directory may take its time; nobody waits for it.
PATIENCE = "SET LOCAL statement_timeout = '30s'"

# What the fleet does when nothing holds it up: the minutes of the last quarter of an hour in which
# a mailing without a limit of its own was being sent from the first second to the last, since it
# was in the minutes before and after as well.
MEASURED_RATE = """
WITH done AS (
    SELECT mailing_id, minute, sum(count) AS n FROM minutes
    WHERE minute >= date_trunc('minute', now()) - interval '15 minutes' AND status = 'sent'
    GROUP BY 1, 2
), neighbours AS (
    SELECT mailing_id, minute, lag(minute) OVER w AS before, lead(minute) OVER w AS after
    FROM done WINDOW w AS (PARTITION BY mailing_id ORDER BY minute)
), full_minutes AS (
    SELECT DISTINCT minute FROM neighbours JOIN mailings g ON g.id = mailing_id
    WHERE before = minute - interval '1 minute' AND after = minute + interval '1 minute'
        AND g.rate_limit IS NULL
)
SELECT (sum(n) / nullif(count(DISTINCT minute), 0) / 60)::float8
FROM done JOIN full_minutes USING (minute)
"""


class Share(ResponseModel):
    """How many of the audience have this operator code, time zone or tag."""

    value: str = Field(examples=["916"])
    clients: int


class ZoneShare(Share):
    """How many of the audience are in this time zone, and when they can first be written to."""

    opens_at: str | None = Field(
        json_schema_extra={"format": "date-time"},
        description="Null if the window never opens there before the end.",
    )


class TextPreview(ResponseModel):
    """How the text travels as SMS; the longest one, where it is another for each client."""

    length: int = Field(description="In characters.")
    encoding: str = Field(json_schema_extra={"enum": ["GSM-7", "UCS-2"]})
    units: int = Field(description="Septets (GSM-7) or 16-bit words (UCS-2).")
    segments: int = Field(description="Per message.")


class ExampleAnswer(ResponseModel):
    """What one client would get."""

    client_id: int
    text: str


class Warning_(ResponseModel):
    """Something that is probably not meant."""

    code: str = Field(examples=["ends_too_early"])
    detail: str


class PreviewAnswer(ResponseModel):
    """What would become of a mailing if it were launched with the clients as they are now."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.PREVIEW]})

    audience: int
    by_operator_code: list[Share]
    by_timezone: list[ZoneShare]
    by_tag: list[Share] = Field(description="The 20 largest.")
    never_in_window: int = Field(
        description="Clients whose window does not open before the end: they will not be sent to."
    )
    opted_out: int = Field(description="Clients who have opted out: they will not be sent to.")
    lacking: int = Field(
        description="Clients who lack an attribute that the text needs: their messages will fail."
    )
    missing_attributes: list[Share] = Field(description="How many clients lack which attribute.")
    examples: list[ExampleAnswer] = Field(description="The text as the first five clients get it.")
    text: TextPreview
    segments_total: int = Field(description="Of all messages that can be sent.")
    segments_exact: bool = Field(
        description="False if the text is another for each of more than 100,000 clients: then an "
        "even sample of them was rendered, and the total and the cost are estimates."
    )
    cost: str | None = Field(
        description="Of all segments; null where no price is set.", examples=["1234.50"]
    )
    rate: float | None = Field(description="Messages a second, as far as is known.")
    expected_seconds: float | None = Field(
        description="How long the sending takes at this rate, hours outside of windows left out."
    )
    expected_finish_at: str | None = Field(json_schema_extra={"format": "date-time"})
    warnings: list[Warning_]


class Zone(NamedTuple):
    """The clients of one time zone; `opens` is None if they cannot be reached before the end."""

    name: str
    clients: int
    opens: datetime | None


@blueprint.post("/mailings/preview")
@operation(
    "mailings",
    response=PreviewAnswer,
    description="What the mailing would be.",
    body=NewMailing,
    scope=Scope.READ,
)
def preview_mailing(body: NewMailing) -> dict[str, Any]:
    """Preview a mailing

    Takes the body of a mailing, creates nothing, and tells whom it would reach by the clients as
    they are now, how it travels as SMS, what it costs and whether it can be through before its end.
    """
    use_one_snapshot()
    now = database_now()
    mailing = draft(body, now)
    shares = _audience(mailing)
    begins = max(mailing.start_at, now)
    window = Window(body.window.start, body.window.end) if body.window else None
    zones = [_zone(name, n, window, begins, mailing.end_at) for name, n in shares["timezone"]]
    audience = sum(zone.clients for zone in zones)
    reachable = sum(zone.clients for zone in zones if zone.opens)
    opening = [zone.name for zone in zones if zone.opens]
    texts = render_for(compile_template(mailing.text), match(mailing), opening)
    longest = texts.longest or mailing.text
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    rate = _rate(body.rate_limit)
    finish = _finish(zones, rate, begins)
    return {
        "audience": audience,
        "by_operator_code": _present(shares["operator_code"]),
        "by_timezone": [
            {"value": zone.name, "clients": zone.clients, "opens_at": format_instant(zone.opens)}
            for zone in zones
        ],
        "by_tag": _present(shares["tag"]),
        "never_in_window": audience - reachable,
        "opted_out": texts.opted_out,
        "lacking": texts.lacking,
        "missing_attributes": _present(texts.missing),
        "examples": [example._asdict() for example in texts.examples],
        "text": {"length": len(longest), **measure_segments(longest)._asdict()},
        "segments_total": texts.segments,
        "segments_exact": texts.exact,
        "cost": None if price is None else f"{price * texts.segments:f}",
        "rate": rate,
        "expected_seconds": None if rate is None else round(texts.messages / rate, 3),
        "expected_finish_at": format_instant(finish),
        "warnings": [
            *_warnings(body, now, audience, reachable, finish),
            *_warnings_of_texts(texts),
        ],
    }


def match(mailing: Mailing) -> dict[str, object]:
    """The AUDIENCE_CONDITION's values for this mailing."""
    return audience_parameters(*(getattr(mailing, name) for name in FILTER_COLUMNS))


def _audience(mailing: Mailing) -> dict[str, list[tuple[str, int]]]:
    """The audience by operator code, zone and tag, each the largest first."""
    reader = session_cursor()
    reader.execute(PATIENCE)
    reader.execute(AUDIENCE, {**match(mailing), "tags_shown": SHOWN_TAGS})
    shares: dict[str, list[tuple[str, int]]] = {"operator_code": [], "timezone": [], "tag": []}
    for kind, value, n in reader.fetchall():
        shares[kind].append((value, n))
    for found in shares.values():
        found.sort(key=lambda share: (-share[1], share[0]))
    return shares


def _zone(name: str, n: int, window: Window | None, begins: datetime, end: datetime) -> Zone:
    opens = next_opening(window, name, begins)
    return Zone(name, n, opens if opens < end else None)


def _rate(rate_limit: int | None) -> float | None:
    """Messages a second: by the limits where there are any, else as the fleet did of late."""
    limits = [limit for limit in (rate_limit, current_app.config["PROVIDER_RATE"]) if limit]
    if limits:
        return float(min(limits))
    reader = session_cursor()
    reader.execute(MEASURED_RATE)
    rate: float | None
    (rate,) = fetch_one_row(reader)
    return rate or None


def _finish(zones: Iterable[Zone], rate: float | None, begins: datetime) -> datetime | None:
    """When the last message has gone, if zones are served as they open."""
    if rate is None:
        return None
    at = begins
    for zone in sorted((zone for zone in zones if zone.opens), key=lambda zone: str(zone.opens)):
        at = max(at, zone.opens or at) + timedelta(seconds=zone.clients / rate)
    return at


def _warnings(
    body: NewMailing, now: datetime, audience: int, reachable: int, finish: datetime | None
) -> Iterable[dict[str, str]]:
    if not audience:
        yield _warning("empty_audience", "No client matches the filter.")
    if body.start_at < now:
        yield _warning("starts_at_once", "The start has passed: the mailing would start at once.")
    if audience and not reachable:
        yield _warning("window_never_opens", "For nobody does the window open before the end.")
    elif reachable < audience:
        yield _warning(
            "window_excludes",
            f"For {audience - reachable} clients the window does not open before the end.",
        )
    if finish is not None and finish > body.end_at:
        yield _warning(
            "ends_too_early",
            f"At the present rate it would take until {format_instant(finish)}, which is after "
            "the end: what is left then is not sent.",
        )


def _warnings_of_texts(texts: Renderings) -> Iterable[dict[str, str]]:
    if texts.lacking:
        names = ", ".join(name for name, _ in texts.missing)
        yield _warning(
            "missing_attributes",
            f"{texts.lacking} clients lack what the text needs ({names}) and will not be sent to; "
            "a default, as in {name|dear client}, would reach them.",
        )
    if texts.unfit:
        yield _warning(
            "unfit_texts",
            f"For {texts.unfit} clients the text would be empty or longer than "
            f"{MAX_RENDERED_LENGTH} characters: they will not be sent to.",
        )


def _warning(code: str, detail: str) -> dict[str, str]:
    return {"code": code, "detail": detail}


def _present(shares: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{"value": value, "clients": n} for value, n in shares]
