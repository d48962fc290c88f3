"""The form of the policy: its fields as texts, and the document that they stand for."""

from collections.abc import Callable, Mapping
from typing import Any

from flask_babel import lazy_gettext

from api.admin.forms.budget_fields import (
    BUDGET_FIELDS,
    COMPARED_BUDGET,
    field_of_budget_error,
    fields_from_budget,
    parse_budget,
)
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

FIELDS = (
    *("max_audience", "refused_share", "min_answers", "launch_delay", "notify"),
    *BUDGET_FIELDS,
)


def read_policy_form(form: Mapping[str, str]) -> dict[str, str]:
    """Return the submitted fields."""
    return {name: field_text(form, name) for name in FIELDS}


def fields_from_policy(policy: PolicyVersion) -> dict[str, str]:
    """Return the form's fields for a version of the policy."""
    return {
        "max_audience": _show(policy.max_audience),
        **fields_from_stop_rule(policy.stop_when),
        "launch_delay": _show(policy.launch_delay or None),
        "notify": ", ".join(policy.notify),
        **fields_from_budget(policy.budget),
    }


def parse_policy(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the rules as the API takes them. What is no number stays a text, and is refused."""
    return {
        "max_audience": parse_number(fields["max_audience"]),
        "launch_delay": parse_number(fields["launch_delay"]) or 0,
        "notify": split_list(fields["notify"]),
        "stop_when": parse_stop_rule(fields),
        "budget": parse_budget(fields),
    }


def field_of_error(location: tuple[Any, ...]) -> str:
    """Return the form's field for the location of an error in the document."""
    first, second = str(location[0]), str(location[1]) if len(location) > 1 else ""
    if first == "stop_when":
        return second or "refused_share"
    if first == "budget":
        return field_of_budget_error(location[1:])
    return first


def _show(value: object) -> str:
    return "" if value is None else str(value)


def _text(name: str) -> Callable[[Mapping[str, str]], str]:
    return lambda fields: fields[name]


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
    *COMPARED_BUDGET,
    ComparedField(
        "launch_delay", lazy_gettext("Launch delay"), ("launch_delay",), _text("launch_delay")
    ),
    ComparedField("notify", lazy_gettext("Who is told"), ("notify",), _text("notify")),
)
