"""The limits that the policy and a mailing can have: audience, share of refusals, budget."""

from typing import Annotated, Any, NamedTuple, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from api.schemas.base import Body
from api.schemas.fields import TextFormat, convert_whole_float
from api.schemas.invalid_value import invalid_value
from shared.db.models import Mailing
from shared.db.policy_models import PolicyVersion
from shared.domain.error_texts import error_text

MAX_COUNT = 10**12

MaxAudience = Annotated[
    int,
    Field(ge=1, le=MAX_COUNT, examples=[100_000]),
    BeforeValidator(convert_whole_float),
]
Amount = Annotated[
    str,
    TextFormat(
        r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,2})?\Z",
        "amount_format",
        error_text("must be an amount with at most two decimals, for example 2500.00"),
        "2500.00",
    ),
]
Segments = Annotated[
    int, Field(ge=1, le=MAX_COUNT, examples=[5000]), BeforeValidator(convert_whole_float)
]
MinAnswers = Annotated[
    int, Field(ge=1, le=MAX_COUNT, examples=[100]), BeforeValidator(convert_whole_float)
]


class StopWhen(Body):
    """When refusals pause a mailing: at this share of the answers, once there are enough."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"refused_share": 0.3, "min_answers": 100}]}
    )

    refused_share: float = Field(ge=0, le=1, examples=[0.3])
    min_answers: MinAnswers


class BudgetLimit(Body):
    """What may be used up in one period: either SMS segments or an amount of money."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"segments": 5000}]})

    segments: Segments | None = None
    amount: Amount | None = Field(default=None, description="Needs the setting `SEGMENT_PRICE`.")

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.segments is None) == (self.amount is None):
            raise invalid_value("budget_unit", error_text("must have either segments or amount"))
        return self


class Budget(Body):
    """What may be used up in a day and in a month, by the time zone of the daily report."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"day": {"amount": "2500.00"}}]})

    day: BudgetLimit | None = None
    month: BudgetLimit | None = None

    @model_validator(mode="after")
    def _check_not_empty(self) -> Self:
        if self.day is None and self.month is None:
            raise invalid_value(
                "budget_empty",
                error_text("must limit the day, the month or both; use null for no budget"),
            )
        return self


def store_limit(limit: Body | None) -> dict[str, Any] | None:
    """Return what a JSONB column stores of a limit."""
    return None if limit is None else limit.model_dump(exclude_none=True)


class Limits(NamedTuple):
    """The rules that a mailing and the policy both can have, as they are stored."""

    max_audience: int | None
    stop_when: dict[str, Any] | None
    budget: dict[str, Any] | None

    @classmethod
    def of(cls, owner: Mailing | PolicyVersion) -> Self:
        """Return the limits of a mailing itself, or of a version of the policy."""
        return cls(owner.max_audience, owner.stop_when, owner.budget)

    @classmethod
    def from_body(
        cls, max_audience: int | None, stop_when: StopWhen | None, budget: Budget | None
    ) -> Self:
        """Return limits as a caller has sent them."""
        return cls(max_audience, store_limit(stop_when), store_limit(budget))
