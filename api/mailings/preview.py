"""Preview a mailing: its audience, SMS segments, cost and duration, with the present clients."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from threading import Semaphore
from typing import NamedTuple

from flask import current_app

from api.actor import Actor
from api.db import database_now, session_cursor, use_one_snapshot
from api.limits.concurrency import ConcurrencyLimit, SharedWork
from api.mailings.dispatch_end import describe_margin, dispatch_end
from api.mailings.schemas import NewMailing
from api.mailings.service import draft_mailing, window_of
from api.mailings.text_preview import AudienceTexts, render_for_audience
from api.schemas.responses import format_instant
from shared.db.audience import AUDIENCE_CONDITION, FILTER_COLUMNS, audience_parameters
from shared.db.models import Mailing
from shared.db.rows import fetch_one_row
from shared.domain.send_windows import UnknownTimeZone, next_opening
from shared.domain.templates import MAX_RENDERED_LENGTH, compile_template

MAX_TAGS = 20

# Of one process. Those that share the work of another, or wait for their turn, count as well.
PREVIEWS = ConcurrencyLimit("previews", per_process=3, per_caller=2, retry_after=2)
_TURNS = Semaphore(2)
_SHARED: SharedWork["Preview"] = SharedWork()

# The clients are read once; all three breakdowns are sums of the same counts.
AUDIENCE = f"""
WITH counted AS MATERIALIZED (
    SELECT operator_code, timezone, tag, count(*) AS n FROM clients WHERE {AUDIENCE_CONDITION} GROUP BY 1, 2, 3
)
SELECT 'operator_code', operator_code, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL SELECT 'timezone', timezone, sum(n)::bigint FROM counted GROUP BY 2
UNION ALL (SELECT 'tag', tag, sum(n)::bigint FROM counted GROUP BY 2 ORDER BY 3 DESC, 2 LIMIT %(max_tags)s)
"""  # noqa: S608, E501 (AUDIENCE_CONDITION is a constant)
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


class Share(NamedTuple):
    """The number of clients of the audience with this operator code, tag or missing attribute."""

    value: str
    clients: int


class ZoneShare(NamedTuple):
    """The clients of one time zone, and when their window opens.

    `opens_at` is None if it does not open before dispatch ends, or if the zone is `unknown`.
    """

    value: str
    clients: int
    opens_at: datetime | None
    unknown: bool = False


class PreviewWarning(NamedTuple):
    """A property of the mailing that is probably a mistake."""

    code: str
    detail: str


class Preview(NamedTuple):
    """What a mailing would be if it were launched now.

    `rate` is in messages per second; it, `expected_seconds` and `expected_finish_at` are None
    while no rate is known, and `cost` is None without a price.
    """

    by_operator_code: list[Share]
    by_timezone: list[ZoneShare]
    by_tag: list[Share]
    texts: AudienceTexts
    longest_text: str
    cost: Decimal | None
    rate: float | None
    expected_seconds: float | None
    expected_finish_at: datetime | None
    warnings: list[PreviewWarning]

    @property
    def audience(self) -> int:
        return sum(zone.clients for zone in self.by_timezone)

    @property
    def never_in_window(self) -> int:
        unopened = [zone for zone in self.by_timezone if zone.opens_at is None]
        return sum(zone.clients for zone in unopened if not zone.unknown)

    @property
    def in_unknown_zones(self) -> int:
        return sum(zone.clients for zone in self.by_timezone if zone.unknown)

    @property
    def missing_attributes(self) -> list[Share]:
        return [Share(*each) for each in self.texts.missing_attributes]


def preview_mailing(body: NewMailing, actor: Actor) -> Preview:
    """Preview a mailing without storing it.

    Previews of the same mailing at the same time share their work. Must come first in its
    transaction. Raise InvalidFields as `create_mailing` would, RateLimited for too many at once.
    """
    with PREVIEWS.admitting(actor.name):
        return _SHARED.run(body.model_dump_json(), lambda: _preview_in_turn(body))


def _preview_in_turn(body: NewMailing) -> Preview:
    with _TURNS:
        return _preview_mailing(body)


def _preview_mailing(body: NewMailing) -> Preview:
    use_one_snapshot()
    now = database_now()
    mailing = draft_mailing(body, now)
    start = max(mailing.start_at, now)
    audience = audience_parameters(*(getattr(mailing, name) for name in FILTER_COLUMNS))
    shares = _count_audience(audience)
    zones = [_open_zone(share, mailing, start) for share in shares["timezone"]]
    opening = {zone.value: zone.clients for zone in zones if zone.opens_at}
    texts = render_for_audience(compile_template(mailing.text), audience, opening)
    price: Decimal | None = current_app.config["SEGMENT_PRICE"]
    rate = _estimate_rate(mailing.rate_limit)
    preview = Preview(
        by_operator_code=shares["operator_code"],
        by_timezone=zones,
        by_tag=shares["tag"],
        texts=texts,
        longest_text=texts.longest or mailing.text,
        cost=None if price is None else price * texts.segments,
        rate=rate,
        expected_seconds=None if rate is None else round(texts.messages / rate, 3),
        expected_finish_at=_estimate_finish(zones, rate, start),
        warnings=[],
    )
    return preview._replace(warnings=list(_find_warnings(mailing, preview, now)))


def _count_audience(audience: Mapping[str, object]) -> dict[str, list[Share]]:
    """Count the audience by operator code, time zone and tag, the largest share first."""
    cursor = session_cursor()
    cursor.execute(LONGER_TIMEOUT)
    cursor.execute(AUDIENCE, {**audience, "max_tags": MAX_TAGS})
    shares: dict[str, list[Share]] = {"operator_code": [], "timezone": [], "tag": []}
    for kind, value, clients in cursor.fetchall():
        shares[kind].append(Share(value, clients))
    for found in shares.values():
        found.sort(key=lambda share: (-share.clients, share.value))
    return shares


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


def _estimate_finish(
    zones: Sequence[ZoneShare], rate: float | None, start: datetime
) -> datetime | None:
    """Estimate when the last message is sent, if zones are served as their windows open."""
    if rate is None:
        return None
    finish = start
    opening = [(zone.opens_at, zone.clients) for zone in zones if zone.opens_at]
    for opens, clients in sorted(opening):
        finish = max(finish, opens) + timedelta(seconds=clients / rate)
    return finish


def _find_warnings(mailing: Mailing, preview: Preview, now: datetime) -> Iterator[PreviewWarning]:
    never, finish = preview.never_in_window, preview.expected_finish_at
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
    if finish is not None and finish > dispatch_end(mailing.end_at):
        yield PreviewWarning(
            "ends_too_early",
            f"At the present rate it would take until {format_instant(finish)}, which is after the "
            f"end{describe_margin()}: what is left then is not sent.",
        )
    yield from _find_text_warnings(preview.texts)


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
