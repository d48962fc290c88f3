"""The two fields of a rule on refusals (`stop_when`), of the policy or of a mailing."""

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

STOP_RULE_FIELDS = ("refused_share", "min_answers")


def fields_from_stop_rule(rule: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the fields of a rule; they are empty if there is none."""
    if rule is None:
        return dict.fromkeys(STOP_RULE_FIELDS, "")
    percent = f"{Decimal(str(rule['refused_share'])) * 100:f}"
    if "." in percent:
        percent = percent.rstrip("0").rstrip(".")
    return {"refused_share": percent, "min_answers": str(rule["min_answers"])}


def parse_stop_rule(fields: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the rule as the API takes it. What is no number stays a text, and is refused."""
    if not any(fields[name] for name in STOP_RULE_FIELDS):
        return None
    return {
        "refused_share": _parse_percent(fields["refused_share"]),
        "min_answers": parse_number(fields["min_answers"]),
    }


def describe_stop_rule(fields: Mapping[str, str]) -> str:
    """Return the rule as two versions of it are compared; empty if there is none."""
    if not any(fields[name] for name in STOP_RULE_FIELDS):
        return ""
    return f"{fields['refused_share']} % / {fields['min_answers']}"


def parse_number(given: str) -> int | str | None:
    """Return a whole number, which may have spaces; None if the field is empty."""
    number = re.sub(r"\s", "", given)
    if not number:
        return None
    return int(number) if re.fullmatch("[0-9]{1,18}", number) else given


def _parse_percent(given: str) -> float | str | None:
    if not given:
        return None
    try:
        percent = Decimal(re.sub(r"[\s%]", "", given).replace(",", "."))
        return float(percent / 100)
    except InvalidOperation:
        return given
