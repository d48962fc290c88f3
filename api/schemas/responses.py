"""What the API answers: the shapes, as OpenAPI shows them, and how rows become them."""

from collections.abc import Mapping
from datetime import UTC, datetime, time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.schemas import examples
from shared.db.audience import FILTER_COLUMNS
from shared.db.auth_models import ApiToken
from shared.db.models import Client, Mailing
from shared.domain.scopes import Scope
from shared.domain.statuses import MailingStatus, MessageStatus

INSTANT = "An instant in UTC (RFC 3339)."


def _shown(example: dict[str, Any]) -> ConfigDict:
    """The configuration of an answer that OpenAPI shows with this example."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class Answer(BaseModel):
    """A JSON answer."""

    model_config = ConfigDict(extra="forbid")


class ClientAnswer(Answer):
    """A client."""

    model_config = _shown(examples.CLIENT)

    id: int
    phone: str = Field(examples=["79161234567"])
    operator_code: str = Field(examples=["916"])
    tag: str
    timezone: str = Field(examples=["Europe/Moscow"])
    attributes: dict[str, str]
    created_at: datetime
    updated_at: datetime


class ClientPage(Answer):
    """A page of clients, by id."""

    model_config = _shown(examples.page_of(examples.CLIENT))

    items: list[ClientAnswer]
    next_cursor: str | None


class FilterAnswer(Answer):
    """Who gets the mailing; what is empty means any."""

    operator_codes: list[str]
    tags: list[str]
    timezones: list[str]
    attributes: dict[str, str]
    exclude_mailing_ids: list[int]
    phones: list[str]


class WindowAnswer(Answer):
    """The clients' local hours in which they may be written to."""

    start: str = Field(alias="from", examples=["09:00"])
    end: str = Field(alias="to", examples=["21:00"])


class MailingAnswer(Answer):
    """A mailing."""

    model_config = _shown(examples.MAILING)

    id: int
    name: str | None
    text: str
    start_at: datetime
    end_at: datetime
    filter: FilterAnswer
    window: WindowAnswer | None
    rate_limit: int | None
    status: MailingStatus
    audience: int = Field(description="How many clients get it; known once it is launched.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class MailingPage(Answer):
    """A page of mailings, by id."""

    model_config = _shown(examples.page_of(examples.MAILING))

    items: list[MailingAnswer]
    next_cursor: str | None


class MessageAnswer(Answer):
    """A message to one client. `sent` means accepted by the provider."""

    model_config = _shown(examples.MESSAGE)

    id: int
    mailing_id: int
    client_id: int
    status: MessageStatus
    reason: str | None = Field(description="Why it ended as it did, unless it was sent.")
    attempts: int
    in_doubt: bool = Field(description="It may have been delivered, but no acceptance is known.")
    created_at: datetime
    sent_at: datetime | None


class MessagePage(Answer):
    """A page of messages, by id. With a filter it may hold fewer than `limit`."""

    model_config = _shown(examples.page_of(examples.MESSAGE))

    items: list[MessageAnswer]
    next_cursor: str | None


class AttemptAnswer(Answer):
    """A request to the provider. Of one that was accepted, only the time is kept."""

    model_config = _shown(examples.ATTEMPT)

    at: datetime
    outcome: str
    reason: str
    http_status: int | None
    latency_ms: int | None
    excerpt: str = Field(description="The beginning of what the provider answered.")


class MessageDetails(MessageAnswer):
    """A message with every attempt."""

    model_config = _shown({**examples.MESSAGE, "attempt_log": [examples.ATTEMPT]})

    attempt_log: list[AttemptAnswer]


class Counts(Answer):
    """Messages by status; together they are the audience."""

    pending: int
    sent: int
    failed: int
    expired: int
    cancelled: int


class MailingStatistics(Answer):
    """What has become of a mailing's messages. The pending ones are split four ways."""

    model_config = _shown(examples.STATISTICS)

    mailing_id: int
    status: MailingStatus
    audience: int
    audience_complete: bool = Field(description="Whether the audience is all there yet.")
    counts: Counts
    in_doubt: int
    in_progress: int = Field(description="Pending: in a worker's hands.")
    due: int = Field(description="Pending: could be sent now.")
    retrying: int = Field(description="Pending: the next attempt is later.")
    waiting: int = Field(description="Pending: the window is shut.")


class MailingTotals(Answer):
    """A mailing with its messages by status."""

    model_config = _shown(examples.MAILING_TOTALS)

    mailing_id: int
    name: str | None
    status: MailingStatus
    audience: int
    counts: Counts
    in_doubt: int


class Totals(Answer):
    """Over all mailings: how many there are by status, and their messages by status."""

    model_config = _shown(examples.TOTALS)

    mailings: dict[MailingStatus, int]
    audience: int
    counts: Counts
    in_doubt: int


class Statistics(Answer):
    """Totals over all mailings, and a page of them one by one."""

    model_config = _shown({"totals": examples.TOTALS, **examples.page_of(examples.MAILING_TOTALS)})

    totals: Totals
    items: list[MailingTotals]
    next_cursor: str | None


class TokenAnswer(Answer):
    """An API token, without its secret."""

    model_config = _shown(examples.TOKEN)

    id: int
    name: str = Field(examples=["billing"])
    scope: Scope
    prefix: str = Field(description="How its secret begins.", examples=["nt_x7Tq2LmA"])
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewTokenAnswer(TokenAnswer):
    """A token with its secret, which is not shown again."""

    model_config = _shown(examples.NEW_TOKEN)

    token: str = Field(examples=["nt_x7Tq2LmA-qkZ0sJ1vGm3yXr8cBn5hWd4uFp6eTi9oLa"])


class TokenPage(Answer):
    """A page of tokens, by id."""

    model_config = _shown(examples.page_of(examples.TOKEN))

    items: list[TokenAnswer]
    next_cursor: str | None


class FaultAnswer(Answer):
    """One thing that is wrong, and where: in the body (pointer) or in the address (parameter)."""

    pointer: str | None = Field(default=None, examples=["/phone"])
    parameter: str | None = Field(default=None, examples=["limit"])
    detail: str
    code: str


class ProblemAnswer(Answer):
    """An error (RFC 9457)."""

    model_config = _shown(examples.PROBLEM)

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str
    instance: str = Field(examples=["/api/v1/clients"])
    request_id: str | None
    errors: list[FaultAnswer] = []


def instant(value: datetime | None) -> str | None:
    """As every answer writes it: UTC, microseconds, Z."""
    if value is None:
        return None
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def present_client(client: Client) -> dict[str, Any]:
    return {
        "id": client.id,
        "phone": str(client.phone),
        "operator_code": client.operator_code,
        "tag": client.tag,
        "timezone": client.timezone,
        "attributes": client.attributes,
        "created_at": instant(client.created_at),
        "updated_at": instant(client.updated_at),
    }


def present_mailing(mailing: Mailing) -> dict[str, Any]:
    return {
        "id": mailing.id,
        "name": mailing.name,
        "text": mailing.text,
        "start_at": instant(mailing.start_at),
        "end_at": instant(mailing.end_at),
        "filter": {name: getattr(mailing, name) for name in FILTER_COLUMNS}
        | {"phones": [str(phone) for phone in mailing.phones]},
        "window": _window(mailing.window_from, mailing.window_to),
        "rate_limit": mailing.rate_limit,
        "status": mailing.status,
        "audience": mailing.audience,
        "created_at": instant(mailing.created_at),
        "started_at": instant(mailing.started_at),
        "finished_at": instant(mailing.finished_at),
    }


def _window(start: time | None, end: time | None) -> dict[str, str] | None:
    if start is None or end is None:
        return None
    return {"from": start.strftime("%H:%M"), "to": end.strftime("%H:%M")}


def present_token(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "prefix": token.prefix,
        "created_at": instant(token.created_at),
        "expires_at": instant(token.expires_at),
        "revoked_at": instant(token.revoked_at),
        "last_used_at": instant(token.last_used_at),
    }


def present_message(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("id", "mailing_id", "client_id", "status", "reason", "attempts", "in_doubt")
    times = ("created_at", "sent_at")
    return {name: row[name] for name in kept} | {name: instant(row[name]) for name in times}


def present_attempt(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("outcome", "reason", "http_status", "latency_ms", "excerpt")
    return {"at": instant(row["at"])} | {name: row[name] for name in kept}


def present_counts(row: Mapping[str, Any]) -> dict[str, int]:
    return {str(status): row[str(status)] for status in MessageStatus}
