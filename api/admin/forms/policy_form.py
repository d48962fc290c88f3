"""The form of the policy: its fields as texts, and the document that they stand for."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from flask_babel import lazy_gettext

from api.admin.forms.edit_conflict import ComparedField
from api.admin.forms.field_errors import field_text
from api.admin.forms.stop_rule_fields import (
    describe_stop_rule,
    fields_from_stop_rule,
    parse_number,
    parse_stop_rule,
)
from api.admin.forms.text_fields import split_list
from shared.db.policy_models import PolicyVersion

UNITS = ("segments", "amount")
FIELDS = (
    *("max_audience", "refused_share", "min_answers", "launch_delay", "notify"),
    *("budget_day", "budget_day_unit", "budget_month", "budget_month_unit"),
)


def read_policy_form(form: Mapping[str, str]) -> dict[str, str]:
    """Return the submitted fields."""
    return {name: field_text(form, name) for name in FIELDS}


def fields_from_policy(policy: PolicyVersion) -> dict[str, str]:
    """Return the form's fields for a version of the policy."""
    budget = policy.budget or {}
    fields: dict[str, str] = {
        "max_audience": _show(policy.max_audience),
        **fields_from_stop_rule(policy.stop_when),
        "launch_delay": _show(policy.launch_delay or None),
        "notify": ", ".join(policy.notify),
    }
    for period in ("day", "month"):
        limit: dict[str, object] = budget.get(period) or {"segments": None}
        ((unit, value),) = limit.items()
        fields |= {f"budget_{period}": _show(value), f"budget_{period}_unit": str(unit)}
    return fields


def parse_policy(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the rules as the API takes them. What is no number stays a text, and is refused."""
    document: dict[str, Any] = {
        "max_audience": parse_number(fields["max_audience"]),
        "launch_delay": parse_number(fields["launch_delay"]) or 0,
        "notify": split_list(fields["notify"]),
        "stop_when": parse_stop_rule(fields),
    }
    budget: dict[str, dict[str, Any]] = {}
    for period in ("day", "month"):
        given = fields[f"budget_{period}"]
        if not given:
            continue
        if fields[f"budget_{period}_unit"] == "amount":
            budget[period] = {"amount": re.sub(r"\s", "", given).replace(",", ".")}
        else:
            budget[period] = {"segments": parse_number(given)}
    return document | {"budget": budget or None}


def field_of_error(location: tuple[Any, ...]) -> str:
    """Return the form's field for the location of an error in the document."""
    first, second = str(location[0]), str(location[1]) if len(location) > 1 else ""
    if first == "stop_when":
        return second or "refused_share"
    if first == "budget":
        return f"budget_{second or 'day'}"
    return first


def _show(value: object) -> str:
    return "" if value is None else str(value)


def _text(name: str) -> Callable[[Mapping[str, str]], str]:
    return lambda fields: fields[name]


def _budget(period: str) -> Callable[[Mapping[str, str]], str]:
    def describe(fields: Mapping[str, str]) -> str:
        value = fields[f"budget_{period}"]
        return f"{value} {fields[f'budget_{period}_unit']}" if value else ""

    return describe


POLICY_FIELDS = (
    ComparedField(
        "max_audience", lazy_gettext("Audience limit"), ("max_audience",), _text("max_audience")
    ),
    ComparedField(
        "stop_when",
        lazy_gettext("Stop on refusals"),
        ("refused_share", "min_answers"),
        describe_stop_rule,
    ),
    ComparedField(
        "budget_day",
        lazy_gettext("Budget of a day"),
        ("budget_day", "budget_day_unit"),
        _budget("day"),
    ),
    ComparedField(
        "budget_month",
        lazy_gettext("Budget of a month"),
        ("budget_month", "budget_month_unit"),
        _budget("month"),
    ),
    ComparedField(
        "launch_delay", lazy_gettext("Launch delay"), ("launch_delay",), _text("launch_delay")
    ),
    ComparedField("notify", lazy_gettext("Who is told"), ("notify",), _text("notify")),
)
