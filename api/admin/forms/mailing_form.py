"""The form of a mailing: its default fields, the fields of a mailing, and parsing it."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import request
from flask_babel import get_timezone

from api.admin.forms.budget_fields import BUDGET_FIELDS, fields_from_budget, parse_budget
from api.admin.forms.field_errors import field_text
from api.admin.forms.stop_rule_fields import (
    STOP_RULE_FIELDS,
    fields_from_stop_rule,
    parse_stop_rule,
)
from api.admin.forms.text_fields import (
    attribute_lines,
    read_attribute_lines,
    read_phones,
    split_list,
)
from api.admin.presenters.formatting import local_datetime_value
from api.db import database_now
from shared.db.models import Mailing
from shared.domain.phones import format_listed_phone
from shared.domain.time_zones import TIME_ZONES

FIELDS = (
    *("name", "text", "operator_codes", "tags", "timezones", "attributes"),
    *("exclude_mailing_ids", "phones", "starts", "start_at", "end_at", "zone"),
    *("limited", "window_from", "window_to", "rate_limit", "max_audience", "test_phones"),
    *STOP_RULE_FIELDS,
    *BUDGET_FIELDS,
)
# Fields of the filter that are seldom filled in: their section is folded while they are empty.
RARE_FIELDS = ("timezones", "attributes", "exclude_mailing_ids", "phones")
# Fields that hold a list, separated by commas.
LIST_FIELDS = ("operator_codes", "tags", "timezones", "exclude_mailing_ids")
LOCAL_DATETIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?")


class SubmittedForm(NamedTuple):
    """The fields as submitted, the JSON body they describe, and errors by field."""

    fields: dict[str, str]
    document: dict[str, Any]
    errors: dict[str, str]


def default_fields() -> dict[str, str]:
    """Return the fields of a new mailing: it starts now, for a day, from 9 to 21 o'clock."""
    soon = database_now().replace(minute=0) + timedelta(hours=1)
    return dict.fromkeys(FIELDS, "") | {
        "starts": "now",
        "start_at": local_datetime_value(soon),
        "end_at": local_datetime_value(soon + timedelta(days=1)),
        "zone": str(get_timezone()),
        "limited": "yes",
        "window_from": "09:00",
        "window_to": "21:00",
    }


def fields_from_mailing(mailing: Mailing) -> dict[str, str]:
    """Return the fields that describe a mailing."""
    fields = default_fields() | {
        "name": mailing.name or "",
        "text": mailing.text,
        **{name: join_list(map(str, getattr(mailing, name))) for name in LIST_FIELDS},
        "attributes": attribute_lines(mailing.attributes.items()),
        "phones": "\n".join(map(format_listed_phone, mailing.phones)),
        "starts": "later",
        "start_at": local_datetime_value(mailing.start_at),
        "end_at": local_datetime_value(mailing.end_at),
        "limited": "",
        "rate_limit": str(mailing.rate_limit or ""),
        "max_audience": str(mailing.max_audience or ""),
        **fields_from_stop_rule(mailing.stop_when),
        **fields_from_budget(mailing.budget),
    }
    if mailing.window_from is not None:
        fields["limited"] = "yes"
        fields["window_from"] = f"{mailing.window_from:%H:%M}"
        fields["window_to"] = f"{mailing.window_to:%H:%M}"
    return fields


def join_list(values: Iterable[str]) -> str:
    """Return different values as a field that does not depend on their order."""
    return ", ".join(sorted(dict.fromkeys(values)))


def parse_form(mailing: Mailing | None = None) -> SubmittedForm:
    """Parse the form in the present request, which changes `mailing` or creates a new one."""
    fields = {name: field_text(request.form, name) for name in FIELDS}
    if mailing is not None:
        # The form of an older version, or a draft of one, has no budget: keep it.
        stored = fields_from_budget(mailing.budget)
        fields |= {name: stored[name] for name in BUDGET_FIELDS if name not in request.form}
    # Browsers send line ends as CR LF, which would count, and cost, as two characters.
    fields["text"] = fields["text"].replace("\r\n", "\n")
    # These are submitted by each ticked box and by the text field beside them.
    for name in LIST_FIELDS:
        fields[name] = join_list(split_list(",".join(request.form.getlist(name))))
    added = [field_text(request.form, name) for name in ("attribute_name", "attribute_value")]
    if all(added):
        fields["attributes"] = "\n".join(filter(None, (fields["attributes"], " = ".join(added))))
    return parse_fields(fields, mailing)


def parse_fields(fields: dict[str, str], mailing: Mailing | None = None) -> SubmittedForm:
    """Return the JSON body and the errors of fields, which change `mailing` or create a new one."""
    errors: dict[str, str] = {}
    document: dict[str, Any] = {
        "name": fields["name"] or None,
        "text": fields["text"],
        **_parse_times(fields, mailing),
        "filter": _parse_filter(fields, errors, mailing),
        "window": None,
        "rate_limit": None,
        "max_audience": None,
        "stop_when": parse_stop_rule(fields),
        "budget": parse_budget(fields),
    }
    if fields["limited"]:
        document["window"] = {"from": fields["window_from"], "to": fields["window_to"]}
    for name in ("rate_limit", "max_audience"):
        if fields[name]:
            document[name] = _parse_number(re.sub(r"\s", "", fields[name]))
    return SubmittedForm(fields, document, errors)


def _parse_times(fields: dict[str, str], mailing: Mailing | None) -> dict[str, str]:
    zone = fields["zone"] if fields["zone"] in TIME_ZONES else str(get_timezone())
    starts_now = fields["starts"] == "now" and mailing is None
    now = database_now().isoformat()
    times = {
        "start_at": now if starts_now else _parse_local(fields["start_at"], zone),
        "end_at": _parse_local(fields["end_at"], zone),
    }
    if mailing is not None:
        # The form shows minutes: keep the seconds of an instant that was not changed.
        for name in times:
            if fields[name] == local_datetime_value(getattr(mailing, name)):
                times[name] = getattr(mailing, name).isoformat()
    return times


def _parse_filter(
    fields: dict[str, str], errors: dict[str, str], mailing: Mailing | None
) -> dict[str, Any]:
    attributes, problem = read_attribute_lines(fields["attributes"])
    if problem is not None:
        errors["attributes"] = problem
    phones, problem = read_phones(fields["phones"])
    if problem is not None:
        errors["phones"] = problem
    lists = {name: split_list(fields[name]) for name in LIST_FIELDS}
    for name in LIST_FIELDS:
        # The same values in the order that the mailing has are no change.
        if mailing is not None and fields[name] == join_list(map(str, getattr(mailing, name))):
            lists[name] = [str(value) for value in getattr(mailing, name)]
    excluded = [_parse_number(each) for each in lists["exclude_mailing_ids"]]
    return {**lists, "attributes": attributes, "exclude_mailing_ids": excluded, "phones": phones}


def _parse_number(given: str) -> int | str:
    """Return a whole number, or the text itself, which validation rejects."""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else given


def _parse_local(local: str, zone: str) -> str:
    """Return a local time as an instant, or an empty text, which validation rejects."""
    if LOCAL_DATETIME.fullmatch(local) is None:
        return ""
    try:
        return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).isoformat()
    except (ValueError, OverflowError):
        return ""
