"""Spending by day in the API: the query that callers send, and the answer."""

from datetime import date
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from api.mailings.daily_spending import DaySpending
from api.schemas import examples
from api.schemas.base import Query
from api.schemas.fields import Day, QueryId
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


class DaysQuery(Query):
    since: Day = Field(description="The first day.", examples=["2030-12-01"])
    until: Day = Field(
        description=f"The last day: not before `since`, and at most {MAX_DAYS} days in all.",
        examples=["2030-12-31"],
    )
    mailing_id: QueryId | None = Field(default=None, description="Of this mailing only.")

    @field_validator("until")
    @classmethod
    def _check_range(cls, until: date, info: ValidationInfo) -> date:
        since: date | None = info.data.get("since")  # None if it is invalid itself
        if since is not None and not 0 <= (until - since).days < MAX_DAYS:
            raise invalid_value(
                "days_range",
                error_text(
                    "must not be before since, and at most %(most)s days in all", most=MAX_DAYS
                ),
            )
        return until


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
