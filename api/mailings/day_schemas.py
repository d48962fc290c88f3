"""Spending by day in the API: the query that callers send, and the answer."""

import re
from datetime import date
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from api.mailings.daily_spending import DaySpending
from api.mailings.schemas import MailingId
from api.schemas import examples
from api.schemas.base import Query
from api.schemas.invalid_value import invalid_value
from api.schemas.responses import ResponseModel, with_example
from api.schemas.spending import COST, Cost, Segments, format_cost, present_spending
from shared.domain.error_texts import error_text

MAX_DAYS = 366
DAY = {
    "day": "2030-12-02",
    "sent": 1610,
    "segments": examples.SEGMENTS,
    "cost": examples.COST,
    "test_segments": 4,
    "test_cost": "9.60",
}


def _parse_day(value: object) -> date:
    try:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            day = date.fromisoformat(value)
            if 2000 <= day.year <= 9000:
                return day
    except ValueError:
        pass
    raise invalid_value("day_format", error_text("must be a day, for example 2030-12-02"))


Day = Annotated[
    date, BeforeValidator(_parse_day), WithJsonSchema({"type": "string", "format": "date"})
]


class DaysQuery(Query):
    since: Day = Field(description="The first day.", examples=["2030-12-01"])
    until: Day = Field(description="The last day.", examples=["2030-12-31"])
    mailing_id: MailingId | None = Field(default=None, description="Of this mailing only.")

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not 0 <= (self.until - self.since).days < MAX_DAYS:
            raise invalid_value(
                "days_range",
                error_text(
                    "until must not be before since, and at most %(most)s days are given at once",
                    most=MAX_DAYS,
                ),
            )
        return self


class DayAnswer(ResponseModel):
    """What was sent on a local day. Test sends are given apart."""

    model_config = with_example(DAY)

    day: str = Field(json_schema_extra={"format": "date"})
    sent: int = Field(description="Messages that were sent.")
    segments: Segments
    cost: Cost | None = COST
    test_segments: int = Field(description="Of test sends, which no budget counts.")
    test_cost: str | None = Field(examples=["9.60"])


class DaysAnswer(ResponseModel):
    """Days in order."""

    model_config = with_example({"items": [DAY]})

    items: list[DayAnswer]


def present_day(day: DaySpending) -> dict[str, Any]:
    spending = present_spending(day.sent_segments, day.in_doubt_segments)
    return DayAnswer.present(
        day, day=day.day.isoformat(), test_cost=format_cost(day.test_segments), **spending
    )
