"""The fields of a budget for a day and a month, of the policy or of a mailing."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flask_babel import lazy_gettext

from api.admin.forms.edit_conflict import ComparedField
from api.admin.forms.stop_rule_fields import parse_number

PERIODS = ("day", "month")
BUDGET_FIELDS = ("budget_day", "budget_day_unit", "budget_month", "budget_month_unit")


def fields_from_budget(budget: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the fields of a budget; the values are empty if there is none."""
    fields: dict[str, str] = {}
    for period in PERIODS:
        limit: dict[str, Any] = (budget or {}).get(period) or {"segments": ""}
        ((unit, value),) = limit.items()
        fields |= {f"budget_{period}": str(value), f"budget_{period}_unit": unit}
    return fields


def parse_budget(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the budget as the API takes it. What is no number stays a text, and is refused."""
    budget: dict[str, dict[str, Any]] = {}
    for period in PERIODS:
        given = fields[f"budget_{period}"]
        if not given:
            continue
        if fields[f"budget_{period}_unit"] == "amount":
            budget[period] = {"amount": re.sub(r"\s", "", given).replace(",", ".")}
        else:
            budget[period] = {"segments": parse_number(given)}
    return budget or None


def field_of_budget_error(location: tuple[Any, ...]) -> str:
    """Return the form's field for the location of an error within a budget: ("day", "amount")."""
    return f"budget_{location[0] if location else 'day'}"


def _describe(period: str) -> Callable[[Mapping[str, str]], str]:
    def describe(fields: Mapping[str, str]) -> str:
        value = re.sub(r"\s", "", fields[f"budget_{period}"])
        in_money = fields[f"budget_{period}_unit"] == "amount"
        return value if in_money or not value else f"{value} SMS"

    return describe


COMPARED_BUDGET = (
    ComparedField(
        "budget_day",
        lazy_gettext("Budget of a day"),
        ("budget_day", "budget_day_unit"),
        _describe("day"),
    ),
    ComparedField(
        "budget_month",
        lazy_gettext("Budget of a month"),
        ("budget_month", "budget_month_unit"),
        _describe("month"),
    ),
)
