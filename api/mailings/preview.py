"""Preview a mailing: its audience, SMS segments, cost and duration, with the present clients."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from threading import Semaphore

from flask import current_app

from api.actor import Actor
from api.db import database_now, session_cursor, use_one_snapshot
from api.limits.concurrency import ConcurrencyLimit, SharedWork
from api.mailings.dispatch_end import describe_margin, dispatch_end
from api.mailings.preview_limits import find_exceeded_limits
from api.mailings.preview_result import Preview, PreviewWarning, Share, ZoneShare
from api.mailings.schemas import NewMailing
from api.mailings.sending_estimate import SendingEstimate, ZoneQueue, estimate_sending
from api.mailings.service import draft_mailing, window_of
from api.mailings.text_findings import find_in_text, warn_of
from api.mailings.text_preview import (
    HAS_REQUIRED,
    AudienceQuery,
    AudienceTexts,
    render_for_audience,
)
from api.schemas.limits import Limits
from api.schemas.responses import format_instant
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS, audience_parameters
from shared.db.models import Mailing
from shared.db.policy import read_policy
from shared.db.rows import fetch_one_row
from shared.domain.error_texts import error_text
from shared.domain.send_windows import UnknownTimeZone, next_opening
from shared.domain.templates import MAX_RENDERED_LENGTH, compile_template
from shared.domain.text_costs import text_without_values

MAX_TAGS = 20

# Of one process. Those that share the work of another, or wait for their turn, count as well.
PREVIEWS = ConcurrencyLimit(error_text("previews"), per_process=3, per_caller=2, retry_after=2)
_TURNS = Semaphore(2)
_SHARED: SharedWork["Preview"] = SharedWork()

# The clients are read once; all three breakdowns are sums of the same counts. `first_id` is the
# first client that has all required attributes.
AUDIENCE = f"""
WITH counted AS MATERIALIZED (
    SELECT operator_code, timezone, tag, count(*) AS n,
        min(id) FILTER (WHERE {HAS_REQUIRED}) AS first_id
    FROM clients WHERE {{audience}} GROUP BY 1, 2, 3
)
SELECT 'operator_code', operator_code, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL SELECT 'timezone', timezone, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL (SELECT 'tag', tag, sum(n)::bigint FROM counted GROUP BY 2 ORDER BY 3 DESC, 2
    LIMIT %(max_tags)s)
UNION ALL SELECT 'first_id', NULL, min(first_id) FROM counted
"""  # noqa: S608 (constants)
# Those of a launched mailing who have not been sent to.
PENDING_CONDITION = """
deleted_at IS NULL AND EXISTS (SELECT FROM messages WHERE messages.mailing_id = %(mailing)s
    AND messages.client_id = clients.id AND messages.status = 'pending')
"""
# Counting the clients of a large directory may take longer than the default limit.
LONGER_TIMEOUT = "SET LOCAL statement_timeout = '30s'"

# The rate without a limit: averaged over the minutes of the last quarter of an hour in which a
# mailing without a rate limit was sent during the whole minute, that is, also in the minutes before
# and after it.
MEASURED_RATE = """
WITH sent AS (
    SELECT mailing_id, minute, sum(count) AS n FROM minutes
    WHERE minute >= date_trunc('minute', now()) - interval '15 minutes' AND status = 'sent'
    GROUP BY 1, 2
), neighbours AS (
    SELECT mailing_id, minute, lag(minute) OVER w AS before, lead(minute) OVER w AS after
    FROM sent WINDOW w AS (PARTITION BY mailing_id ORDER BY minute)
), full_minutes AS (
    SELECT DISTINCT minute FROM neighbours JOIN mailings m ON m.id = mailing_id
    WHERE before = minute - interval '1 minute' AND after = minute + interval '1 minute'
        AND m.rate_limit IS NULL
)
SELECT (sum(n) / nullif(count(DISTINCT minute), 0) / 60)::float8
FROM sent JOIN full_minutes USING (minute)
"""


def preview_mailing(body: NewMailing, actor: Actor, launched_id: int | None = None) -> Preview:
    """Preview a mailing without storing it.

    With `launched_id` its recipients are those that this mailing has not sent to yet, and the
    filter in `body` does not matter. Previews of the same mailing at the same time share their
    work. Must come first in its transaction. Raise InvalidFields as `create_mailing` would,
    RateLimited for too many at once.
    """
    with PREVIEWS.admitting(actor.name):
        key = f"{launched_id or ''} {body.model_dump_json()}"
        return _SHARED.run(key, lambda: _preview_in_turn(body, launched_id))


def _preview_in_turn(body: NewMailing, launched_id: int | None) -> Preview:
    with _TURNS:
        return _preview_mailing(body, launched_id)


def _preview_mailing(body: NewMailing, launched_id: int | None) -> Preview:
    use_one_snapshot()
    now = database_now()
    mailing = draft_mailing(body, now, read_policy(session_cursor()).launch_delay)
    start = max(mailing.launch_at, now)
    audience = _select_audience(mailing, launched_id)
    template = compile_template(mailing.text)
    shares, first_id = _count_audience(audience, template.required)
    zones = [_open_zone(share, mailing, start) for share in shares["timezone"]]
    opening = {zone.value: zone.clients for zone in zones if zone.opens_at}
    texts = render_for_audience(template, audience, opening, first_id)
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    rate = _estimate_rate(mailing.rate_limit)
    estimate = _estimate_sending(mailing, zones, texts, rate, start)
    preview = Preview(
        by_operator_code=shares["operator_code"],
        by_timezone=zones,
        by_tag=shares["tag"],
        texts=texts,
        longest_text=texts.longest or mailing.text,
        cost=None if price is None else price * texts.segments,
        rate=rate,
        expected_seconds=None if rate is None else round(texts.messages / rate, 3),
        expected_finish_at=None if estimate is None else estimate.finish_at,
        expected_unsent=None if estimate is None else estimate.unsent,
        findings=find_in_text(template, texts.longest or text_without_values(template)),
        exceeded=[],
        warnings=[],
    )
    exceeded = find_exceeded_limits(
        Limits.of(mailing), preview.audience, texts.segments, start, now, launched_id
    )
    preview = preview._replace(exceeded=list(exceeded))
    return preview._replace(warnings=list(_find_warnings(mailing, preview, now)))


def _select_audience(mailing: Mailing, launched_id: int | None) -> AudienceQuery:
    if launched_id is not None:
        return AudienceQuery(PENDING_CONDITION, {"mailing": launched_id})
    parameters = audience_parameters(*(getattr(mailing, name) for name in FILTER_COLUMNS))
    return AudienceQuery(AUDIENCE_CONDITION, parameters)


def _count_audience(
    audience: AudienceQuery, required: Sequence[str]
) -> tuple[dict[str, list[Share]], int | None]:
    """Count the audience by operator code, time zone and tag, the largest share first.

    Return also the id of the first client that has the required attributes.
    """
    cursor = session_cursor()
    cursor.execute(LONGER_TIMEOUT)
    values = {**audience.parameters, "max_tags": MAX_TAGS, "required": list(required)}
    cursor.execute(audience.select(AUDIENCE), values)
    shares: dict[str, list[Share]] = {"operator_code": [], "timezone": [], "tag": []}
    first_id: int | None = None
    for kind, value, number in cursor.fetchall():
        if kind == "first_id":
            first_id = number
        else:
            shares[kind].append(Share(value, number))
    for found in shares.values():
        found.sort(key=lambda share: (-share.clients, share.value))
    return shares, first_id


def _open_zone(share: Share, mailing: Mailing, start: datetime) -> ZoneShare:
    try:
        opens = next_opening(window_of(mailing), share.value, start)
    except UnknownTimeZone:
        return ZoneShare(*share, None, unknown=True)
    return ZoneShare(*share, opens if opens < dispatch_end(mailing.end_at) else None)


def _estimate_rate(rate_limit: int | None) -> float | None:
    """Return the lowest limit in messages per second, or the measured rate without a limit."""
    limits = [limit for limit in (rate_limit, current_app.config["PROVIDER_RATE"]) if limit]
    if limits:
        return float(min(limits))
    cursor = session_cursor()
    cursor.execute(MEASURED_RATE)
    rate: float | None
    (rate,) = fetch_one_row(cursor)
    return rate or None


def _estimate_sending(
    mailing: Mailing,
    zones: Sequence[ZoneShare],
    texts: AudienceTexts,
    rate: float | None,
    start: datetime,
) -> SendingEstimate | None:
    """Estimate when the last message is sent and how many are not, with the windows of the zones.

    Who lacks what the text needs is taken to live evenly in all zones.
    """
    if rate is None:
        return None
    open_zones = [
        (zone.opens_at, zone.value, zone.clients - texts.opted_out_by_zone.get(zone.value, 0))
        for zone in zones
        if zone.opens_at is not None
    ]
    reachable = sum(clients for _, _, clients in open_zones)
    share = texts.messages / reachable if reachable else 0.0
    queues = [ZoneQueue(opens, zone, clients * share) for opens, zone, clients in open_zones]
    end = dispatch_end(mailing.end_at)
    return estimate_sending(queues, window_of(mailing), rate, start, end)


def _find_warnings(mailing: Mailing, preview: Preview, now: datetime) -> Iterator[PreviewWarning]:
    never, unsent = preview.never_in_window, preview.expected_unsent
    if not preview.audience:
        yield PreviewWarning("empty_audience", "No client matches the filter.")
    if mailing.start_at < now:
        yield PreviewWarning(
            "starts_at_once", "The start has passed: the mailing would start at once."
        )
    if never and never == preview.audience:
        yield PreviewWarning(
            "window_never_opens",
            f"The window opens for no client before the end{describe_margin()}.",
        )
    elif never:
        yield PreviewWarning(
            "window_excludes",
            f"For {never} clients the window does not open before the end{describe_margin()}.",
        )
    if preview.in_unknown_zones:
        yield PreviewWarning(
            "unknown_timezones",
            f"The time zone of {preview.in_unknown_zones} clients is not known: their messages "
            "will fail.",
        )
    if unsent:
        until = (
            f"it would take until {format_instant(preview.expected_finish_at)}"
            if preview.expected_finish_at is not None
            else "it would take far longer"
        )
        yield PreviewWarning(
            "ends_too_early",
            f"At the present rate {until}: about {unsent} messages are left at the "
            f"end{describe_margin()} and are not sent.",
        )
    for each in preview.exceeded:
        yield PreviewWarning(each.code, each.detail)
    yield from _find_text_warnings(preview.texts)
    yield from map(warn_of, preview.findings)


def _find_text_warnings(texts: AudienceTexts) -> Iterable[PreviewWarning]:
    if texts.lacking:
        names = ", ".join(name for name, _ in texts.missing_attributes)
        yield PreviewWarning(
            "missing_attributes",
            f"{texts.lacking} clients lack what the text needs ({names}) and will not be sent to; "
            "a default, as in {name|dear client}, would reach them.",
        )
    if texts.unfit:
        yield PreviewWarning(
            "unfit_texts",
            f"For {texts.unfit} clients the text would be empty or longer than "
            f"{MAX_RENDERED_LENGTH} characters: they will not be sent to.",
        )
