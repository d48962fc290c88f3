"""What is used up of a budget, as responses present it."""

from typing import Any

from pydantic import Field

from api.schemas.responses import ResponseModel, with_example
from api.schemas.spending import format_cost
from shared.db.budgets import BudgetUse, PeriodUse

USE = {
    "limit": 200_000,
    "spent": 48_210,
    "reserved": 1_000,
    "left": 150_790,
    "cost": "115704.00",
}


class PeriodUseAnswer(ResponseModel):
    """A budget in the present day or month, in SMS segments."""

    model_config = with_example(USE)

    limit: int | None = Field(description="Null if the period has no limit.")
    spent: int = Field(description="Of messages that were sent or are in doubt, each once.")
    reserved: int = Field(description="Of messages that workers are sending.")
    left: int | None = Field(description="Null if the period has no limit.")
    cost: str | None = Field(
        description="Of what was spent; null where no price is set.", examples=["115704.00"]
    )


class BudgetUseAnswer(ResponseModel):
    """What is used up of a budget today and this month; both are null without a budget."""

    model_config = with_example({"day": USE, "month": USE | {"limit": None, "left": None}})

    day: PeriodUseAnswer | None
    month: PeriodUseAnswer | None


def present_budget_use(use: BudgetUse | None) -> dict[str, Any]:
    return {
        "day": use and _present_period(use.day),
        "month": use and _present_period(use.month),
    }


def _present_period(use: PeriodUse) -> dict[str, Any]:
    return PeriodUseAnswer.present(use, cost=format_cost(use.spent))
