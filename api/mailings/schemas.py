"""Mailings in the API: the bodies and queries that callers send, and the responses."""

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from api.cursors import MAX_ID
from api.schemas import examples
from api.schemas.base import UNSET, Body, ListQuery, Patch
from api.schemas.fields import (
    ClockTime,
    Instant,
    OperatorCode,
    Phone,
    Search,
    Several,
    Tag,
    Timezone,
    convert_whole_float,
)
from api.schemas.invalid_value import invalid_value
from api.schemas.limits import Budget, MaxAudience, StopWhen
from api.schemas.personalisation import Attributes, MailingText
from api.schemas.responses import ResponseModel, with_example
from shared.db.audience import FILTER_COLUMNS
from shared.db.models import Mailing
from shared.domain.error_texts import error_text
from shared.domain.phones import format_listed_phone
from shared.domain.statuses import MailingStatus, PauseReason

MailingId = Annotated[
    int, Field(ge=1, le=MAX_ID, examples=[17]), BeforeValidator(convert_whole_float)
]


class Filter(Body):
    """The clients that get a mailing: they match all fields. An empty field matches any client."""

    operator_codes: list[OperatorCode] = Field(default=[], max_length=1000)
    tags: list[Tag] = Field(default=[], max_length=1000)
    timezones: list[Timezone] = Field(default=[], max_length=1000)
    attributes: Attributes = Field(
        default={}, description="Clients whose attributes are equal to all of these."
    )
    exclude_mailing_ids: list[MailingId] = Field(
        default=[],
        max_length=20,
        description="Clients who were sent one of these mailings are excluded.",
    )
    phones: list[Phone] = Field(
        default=[], max_length=10_000, description="These clients only; unknown phones are ignored."
    )

    @field_validator("operator_codes", "tags", "timezones", "exclude_mailing_ids", "phones")
    @classmethod
    def _drop_duplicates(cls, values: list[Any]) -> list[Any]:
        return list(dict.fromkeys(values))


class WindowHours(Body):
    """Local hours in which clients may be messaged: from inclusive, to exclusive.

    A window whose end is earlier than its beginning crosses midnight.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"from": "09:00", "to": "21:00"}]})

    start: ClockTime = Field(alias="from", examples=["09:00"])
    end: ClockTime = Field(alias="to", examples=["21:00"])

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.start == self.end:
            raise invalid_value(
                "window_empty",
                error_text("from and to must differ; leave the window out to send at any hour"),
            )
        return self


START_EXAMPLE = "2030-12-02T09:00:00+03:00"

END_EXAMPLE = "2030-12-02T21:00:00+03:00"

Name = Annotated[str, Field(min_length=1, max_length=200, examples=["Spring sale"])]

RateLimit = Annotated[
    int,
    Field(ge=1, le=100_000, description="Messages per second, at most."),
    BeforeValidator(convert_whole_float),
]


# The policy has the same three settings: see api/schemas/limits.py.
MAX_AUDIENCE = Field(
    default=None,
    description="A mailing that would reach more clients pauses and sends nothing. The smaller"
    " limit of mailing and policy applies.",
)
STOP_WHEN = Field(
    default=None,
    description="When refusals of the provider pause the mailing; null: as the policy says.",
)
BUDGET = Field(
    default=None,
    description="What the mailing may use up; the policy's budget applies as well.",
)


class NewMailing(Body):
    """A mailing to create."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Spring sale",
                    "text": "{name|Dear client}, only today: everything at half the price.",
                    "start_at": START_EXAMPLE,
                    "end_at": END_EXAMPLE,
                    "filter": {"operator_codes": ["916"], "tags": ["vip"]},
                    "window": {"from": "09:00", "to": "21:00"},
                }
            ]
        }
    )

    name: Name | None = None
    text: MailingText
    start_at: Instant = Field(examples=[START_EXAMPLE])
    end_at: Instant = Field(examples=[END_EXAMPLE])
    filter: Filter = Field(default_factory=Filter)
    window: WindowHours | None = None
    rate_limit: RateLimit | None = None
    max_audience: MaxAudience | None = MAX_AUDIENCE
    stop_when: StopWhen | None = STOP_WHEN
    budget: Budget | None = BUDGET


class MailingChanges(Patch):
    """Changes of a mailing. A filter replaces the former one as a whole."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"end_at": "2030-12-02T22:00:00+03:00"}]}
    )

    name: Name | None = None
    text: MailingText = UNSET
    start_at: Instant = Field(default=UNSET, examples=[START_EXAMPLE])
    end_at: Instant = Field(default=UNSET, examples=[END_EXAMPLE])
    filter: Filter = UNSET
    window: WindowHours | None = None
    rate_limit: RateLimit | None = None
    max_audience: MaxAudience | None = MAX_AUDIENCE
    stop_when: StopWhen | None = STOP_WHEN
    budget: Budget | None = BUDGET


class MailingQuery(ListQuery):
    search: Search | None = Field(
        default=None,
        description="Mailings whose name or text contains each of these words, in any case.",
        examples=["spring sale"],
    )
    status: Several[MailingStatus] | None = Field(
        default=None, description="Mailings in one of these statuses, separated by commas."
    )
    start_since: Instant | None = Field(default=None, description="Start not before this instant.")
    start_until: Instant | None = Field(default=None, description="Start before this instant.")
    created_since: Instant | None = Field(
        default=None, description="Created not before this instant."
    )
    created_until: Instant | None = Field(default=None, description="Created before this instant.")


class FilterAnswer(ResponseModel):
    """The clients that get the mailing; an empty field matches any client."""

    operator_codes: list[str]
    tags: list[str]
    timezones: list[str]
    attributes: dict[str, str]
    exclude_mailing_ids: list[int]
    phones: list[str] = Field(description="A phone whose client was deleted is `erased`.")


class WindowAnswer(ResponseModel):
    """The clients' local hours in which they may be messaged."""

    start: str = Field(alias="from", examples=["09:00"])
    end: str = Field(alias="to", examples=["21:00"])


class MailingAnswer(ResponseModel):
    """A mailing."""

    model_config = with_example(examples.MAILING)

    id: int
    name: str | None
    text: str
    start_at: datetime
    end_at: datetime
    filter: FilterAnswer
    window: WindowAnswer | None
    rate_limit: int | None
    max_audience: int | None
    stop_when: StopWhen | None
    budget: Budget | None
    launch_at: datetime = Field(
        description="When the first message may leave: at `start_at`, or later by the policy's"
        " `launch_delay`."
    )
    status: MailingStatus
    pause_reason: PauseReason | None = Field(
        description="Why it is paused: a person did it (`manual`), or a rule. Null in every other"
        " status."
    )
    audience: int = Field(description="How many clients get it; known once it is launched.")
    audience_complete: bool = Field(
        description="False until all clients of the audience are counted in `audience`."
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class MailingPage(ResponseModel):
    """A page of mailings, by id."""

    model_config = with_example(examples.page_of(examples.MAILING))

    items: list[MailingAnswer]
    next_cursor: str | None


def present_mailing(mailing: Mailing) -> dict[str, Any]:
    chosen = {name: getattr(mailing, name) for name in FILTER_COLUMNS}
    chosen["phones"] = [format_listed_phone(phone) for phone in mailing.phones]
    window = None
    if mailing.window_from is not None and mailing.window_to is not None:
        window = {"from": f"{mailing.window_from:%H:%M}", "to": f"{mailing.window_to:%H:%M}"}
    return MailingAnswer.present(mailing, filter=chosen, window=window)
