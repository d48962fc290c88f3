"""Messages and statistics in the API: the queries that callers send, and the answers."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from api.schemas import examples
from api.schemas.base import ListQuery
from api.schemas.csv_query import CsvQuery
from api.schemas.fields import Instant, Several
from api.schemas.responses import ResponseModel, with_example
from api.schemas.spending import COST, SEGMENTS, Cost, Segments, present_counted
from shared.db.mailing_counts import MailingCounts
from shared.db.models import Mailing
from shared.db.refusals import Refusal
from shared.domain.statuses import MailingStatus, MessageStatus

EXPORT_EXAMPLE = (
    "id,client_id,phone,status,reason,attempts,in_doubt,created_at,sent_at\r\n"
    "1,1,79161234567,sent,,0,false,2026-12-01T09:00:00.000000Z,2026-12-01T09:00:01.000000Z\r\n"
)


Statuses = Annotated[
    Several[MessageStatus] | None,
    Field(description="Messages in one of these statuses, separated by commas."),
]


class MessageQuery(ListQuery):
    status: Statuses = None
    sent_since: Instant | None = Field(default=None, description="Sent not before this instant.")
    sent_until: Instant | None = Field(default=None, description="Sent before this instant.")


class MessageCsvQuery(CsvQuery):
    status: Statuses = None


class MessageAnswer(ResponseModel):
    """A message to one client. `sent` means accepted by the provider."""

    model_config = with_example(examples.MESSAGE)

    id: int
    mailing_id: int
    client_id: int
    status: MessageStatus
    reason: str | None = Field(description="Why it ended as it did, unless it was sent.")
    attempts: int
    in_doubt: bool = Field(description="It may have been delivered, but no acceptance is known.")
    created_at: datetime
    sent_at: datetime | None


class MessagePage(ResponseModel):
    """A page of messages, by id. With a filter it may hold fewer than `limit`."""

    model_config = with_example(examples.page_of(examples.MESSAGE))

    items: list[MessageAnswer]
    next_cursor: str | None


class AttemptAnswer(ResponseModel):
    """A request to the provider. Of one that was accepted, only the time is stored."""

    model_config = with_example(examples.ATTEMPT)

    at: datetime
    outcome: str
    reason: str
    http_status: int | None
    latency_ms: int | None
    excerpt: str = Field(description="The beginning of the provider's response.")


class MessageDetails(MessageAnswer):
    """A message with its attempts."""

    model_config = with_example({**examples.MESSAGE, "attempt_log": [examples.ATTEMPT]})

    attempt_log: list[AttemptAnswer] = Field(description="The latest 500, the earliest first.")


class Counts(ResponseModel):
    """Messages by status; together they are the audience."""

    pending: int
    sent: int
    failed: int
    expired: int
    cancelled: int


OptedOut = Annotated[int, Field(description="Of the cancelled: these clients have opted out.")]


class RefusalAnswer(ResponseModel):
    """Refusals of the provider with one status and reason."""

    http_status: int
    reason: str = Field(description="`code_…` with the code of a 200, otherwise `http_…`.")
    count: int
    example: str = Field(
        description="The beginning of a recent answer, without phones and without the text."
    )


class MailingStatistics(ResponseModel):
    """The counts of a mailing's messages. The pending ones are split four ways."""

    model_config = with_example(examples.STATISTICS)

    mailing_id: int
    status: MailingStatus
    audience: int
    audience_complete: bool = Field(description="False while the launch still adds recipients.")
    counts: Counts
    opted_out: OptedOut
    in_doubt: int
    segments: Segments | None = SEGMENTS
    cost: Cost | None = COST
    in_progress: int = Field(description="Pending: a worker is sending them.")
    due: int = Field(description="Pending: could be sent now.")
    retrying: int = Field(description="Pending: the next attempt is later.")
    waiting: int = Field(description="Pending: the window is closed.")
    refusals: list[RefusalAnswer] = Field(
        description="The five most frequent refusals, each attempt counted, the most frequent"
        " first."
    )


class MailingTotals(ResponseModel):
    """A mailing with its messages by status."""

    model_config = with_example(examples.MAILING_TOTALS)

    mailing_id: int
    name: str | None
    status: MailingStatus
    audience: int
    counts: Counts
    opted_out: OptedOut
    in_doubt: int
    segments: Segments | None = SEGMENTS
    cost: Cost | None = COST


class Totals(ResponseModel):
    """Over all mailings: how many there are by status, and their messages by status."""

    model_config = with_example(examples.TOTALS)

    mailings: dict[MailingStatus, int]
    audience: int
    counts: Counts
    opted_out: OptedOut
    in_doubt: int
    segments: Segments | None = SEGMENTS
    cost: Cost | None = COST


class Statistics(ResponseModel):
    """Totals over all mailings, and a page of them one by one."""

    model_config = with_example(
        {"totals": examples.TOTALS, **examples.page_of(examples.MAILING_TOTALS)}
    )

    totals: Totals
    items: list[MailingTotals]
    next_cursor: str | None


def present_mailing_statistics(
    mailing: Mailing, counts: MailingCounts, refusals: Sequence[Refusal]
) -> dict[str, Any]:
    return MailingStatistics.present(
        counts,
        mailing_id=mailing.id,
        status=mailing.status,
        audience=mailing.audience,
        audience_complete=mailing.audience_complete,
        counts=Counts.present(counts),
        opted_out=counts.cancelled_opted_out,
        refusals=[RefusalAnswer.present(refusal) for refusal in refusals],
        **present_counted(counts),
    )


def present_mailing_totals(row: Mapping[str, Any]) -> dict[str, Any]:
    return MailingTotals.present(
        row,
        mailing_id=row["id"],
        counts=Counts.present(row),
        opted_out=row["cancelled_opted_out"],
        **present_counted(row),
    )
