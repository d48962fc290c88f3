"""The form of a mailing: what it proposes, how it shows a mailing, what mailing it describes."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import request
from flask_babel import get_timezone

from api.admin.forms.field_errors import text_of
from api.admin.forms.text_fields import (
    attribute_lines,
    read_attribute_lines,
    read_phones,
    split_list,
)
from api.admin.presenters.formatting import instant_field
from api.mailings.schemas import present_mailing
from shared.db.models import Mailing
from shared.domain.time_zones import TIME_ZONES

FIELDS = (
    *("name", "text", "operator_codes", "tags", "timezones", "attributes"),
    *("exclude_mailing_ids", "phones", "starts", "start_at", "end_at", "zone"),
    *("limited", "window_from", "window_to", "rate_limit", "test_phones"),
)
# Those that say who gets the mailing beyond tags and operator codes.
RARER = ("timezones", "attributes", "exclude_mailing_ids", "phones")
LOCAL = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2})?")


class Filled(NamedTuple):
    """A form as it was filled in, the mailing's body it stands for, and what cannot be read."""

    fields: dict[str, str]
    document: dict[str, Any]
    faults: dict[str, str]


def proposal() -> dict[str, str]:
    """Now, for a day, within decent hours."""
    soon = datetime.now(UTC).replace(minute=0) + timedelta(hours=1)
    return dict.fromkeys(FIELDS, "") | {
        "starts": "now",
        "start_at": instant_field(soon),
        "end_at": instant_field(soon + timedelta(days=1)),
        "zone": str(get_timezone()),
        "limited": "yes",
        "window_from": "09:00",
        "window_to": "21:00",
    }


def fields_of(mailing: Mailing) -> dict[str, str]:
    """The form as it would have been filled in for this mailing."""
    shown = present_mailing(mailing)
    window = shown["window"] or {}
    return {
        "name": shown["name"] or "",
        "text": shown["text"],
        "operator_codes": ", ".join(mailing.operator_codes),
        "tags": ", ".join(mailing.tags),
        "timezones": ", ".join(mailing.timezones),
        "attributes": attribute_lines(mailing.attributes.items()),
        "exclude_mailing_ids": ", ".join(map(str, mailing.exclude_mailing_ids)),
        "phones": "\n".join(map(str, mailing.phones)),
        "starts": "later",
        "start_at": instant_field(mailing.start_at),
        "end_at": instant_field(mailing.end_at),
        "zone": str(get_timezone()),
        "limited": "yes" if window else "",
        "window_from": window.get("from", "09:00"),
        "window_to": window.get("to", "21:00"),
        "rate_limit": str(mailing.rate_limit or ""),
        "test_phones": "",
    }


def read_form(mailing: Mailing | None = None) -> Filled:
    """What the present request's form says, of `mailing` or of a new one."""
    fields = {name: text_of(request.form, name) for name in FIELDS}
    # A browser sends line ends as CR LF; each would count, and cost, as two characters.
    fields["text"] = fields["text"].replace("\r\n", "\n")
    # Ticked from a list, and written beside it.
    chosen = ",".join(request.form.getlist("exclude_mailing_ids"))
    fields["exclude_mailing_ids"] = ", ".join(dict.fromkeys(split_list(chosen)))
    faults: dict[str, str] = {}
    document: dict[str, Any] = {
        "name": fields["name"] or None,
        "text": fields["text"],
        **_times(fields, mailing),
        "filter": _filter(fields, faults),
        "window": None,
        "rate_limit": None,
    }
    if fields["limited"]:
        document["window"] = {"from": fields["window_from"], "to": fields["window_to"]}
    if fields["rate_limit"]:
        document["rate_limit"] = _whole(re.sub(r"\s", "", fields["rate_limit"]))
    return Filled(fields, document, faults)


def _times(fields: dict[str, str], mailing: Mailing | None) -> dict[str, str]:
    zone = fields["zone"] if fields["zone"] in TIME_ZONES else str(get_timezone())
    starts_now = fields["starts"] == "now" and mailing is None
    now = datetime.now(UTC).isoformat()
    found = {
        "start_at": now if starts_now else _instant(fields["start_at"], zone),
        "end_at": _instant(fields["end_at"], zone),
    }
    if mailing is not None:
        # A form knows minutes; what it shows unchanged is unchanged.
        for name in found:
            if fields[name] == instant_field(getattr(mailing, name)):
                found[name] = getattr(mailing, name).isoformat()
    return found


def _filter(fields: dict[str, str], faults: dict[str, str]) -> dict[str, Any]:
    attributes, problem = read_attribute_lines(fields["attributes"])
    if problem is not None:
        faults["attributes"] = problem
    phones, problem = read_phones(fields["phones"])
    if problem is not None:
        faults["phones"] = problem
    return {
        "operator_codes": split_list(fields["operator_codes"]),
        "tags": split_list(fields["tags"]),
        "timezones": split_list(fields["timezones"]),
        "attributes": attributes,
        "exclude_mailing_ids": [_whole(each) for each in split_list(fields["exclude_mailing_ids"])],
        "phones": phones,
    }


def _whole(given: str) -> int | str:
    """A whole number, or what is none, to be refused."""
    return int(given) if given.isascii() and given.isdecimal() and len(given) < 19 else given


def _instant(local: str, zone: str) -> str:
    """A local time as an instant; what is none is left to be refused."""
    if LOCAL.fullmatch(local) is None:
        return ""
    try:
        return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).isoformat()
    except (ValueError, OverflowError):
        return ""
