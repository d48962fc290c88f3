"""What a preview of a mailing finds: shares of its audience, who will not get it, and warnings."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from api.mailings.preview_limits import ExceededLimit
from api.mailings.text_preview import AudienceTexts
from shared.domain.text_costs import TextFinding


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


class WithheldReason(StrEnum):
    """Why clients of the audience will not be sent to; a client counts for the first that holds."""

    OPTED_OUT = "opted_out"
    UNKNOWN_TIME_ZONE = "unknown_timezone"
    WINDOW = "window_never_opens"
    MISSING_ATTRIBUTES = "missing_attributes"
    UNFIT_TEXT = "unfit_text"


class Withheld(NamedTuple):
    """How many clients of the audience will not be sent to for this reason."""

    reason: WithheldReason
    clients: int


class PreviewWarning(NamedTuple):
    """A property of the mailing that is probably a mistake."""

    code: str
    detail: str


class Preview(NamedTuple):
    """What a mailing would be if it were launched now.

    `rate` is in messages per second; it, `expected_seconds`, `expected_finish_at` and
    `expected_unsent` are None while no rate is known, and `cost` is None without a price.
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
    expected_unsent: int | None
    findings: list[TextFinding]
    exceeded: list[ExceededLimit]
    warnings: list[PreviewWarning]

    @property
    def audience(self) -> int:
        return sum(zone.clients for zone in self.by_timezone)

    @property
    def recipients(self) -> int:
        """How many will get it: the audience without those withheld."""
        return self.texts.messages

    @property
    def withheld(self) -> list[Withheld]:
        """Those of the audience who will not get it, by reason; with `recipients` they add up."""
        opted_out = self.texts.opted_out_by_zone
        closed, unknown = (
            sum(
                zone.clients - opted_out.get(zone.value, 0)
                for zone in self.by_timezone
                if zone.opens_at is None and zone.unknown == is_unknown
            )
            for is_unknown in (False, True)
        )
        counts = {
            WithheldReason.OPTED_OUT: self.texts.opted_out,
            WithheldReason.UNKNOWN_TIME_ZONE: unknown,
            WithheldReason.WINDOW: closed,
            WithheldReason.MISSING_ATTRIBUTES: self.texts.lacking_reachable,
            WithheldReason.UNFIT_TEXT: self.texts.unfit,
        }
        return [Withheld(reason, clients) for reason, clients in counts.items() if clients]

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
