"""The form of a mailing: what it proposes, how it shows a mailing, what mailing it describes."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from flask import request
from flask_babel import get_timezone
from flask_babel import gettext as _

from api.admin.forms.field_errors import text_of
from api.admin.presenters.formatting import instant_field
from api.admin.presenters.recipients import read_phone
from api.schemas.responses import present_mailing
from shared.client_import.row_rules import attribute_name
from shared.db.models import Mailing
from shared.domain.time_zones import ZONES

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
    fields["exclude_mailing_ids"] = ", ".join(dict.fromkeys(listed(chosen)))
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
    zone = fields["zone"] if fields["zone"] in ZONES else str(get_timezone())
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
    attributes, wrong = read_attribute_lines(fields["attributes"])
    if wrong is not None:
        faults["attributes"] = says_of_line(wrong)
    phones, stranger = read_phones(fields["phones"])
    if stranger is not None:
        faults["phones"] = says_of_phone(stranger)
    return {
        "operator_codes": listed(fields["operator_codes"]),
        "tags": listed(fields["tags"]),
        "timezones": listed(fields["timezones"]),
        "attributes": attributes,
        "exclude_mailing_ids": [_whole(each) for each in listed(fields["exclude_mailing_ids"])],
        "phones": phones,
    }


def listed(given: str) -> list[str]:
    """What stands between commas, semicolons or line ends."""
    return [each.strip() for each in re.split(r"[,;\n]", given) if each.strip()]


def read_phones(given: str) -> tuple[list[str], str | None]:
    """Phones as people list them, and the first of them that is none."""
    phones: list[str] = []
    for each in listed(given):
        phone = read_phone(each)
        if phone is None:
            return phones, each
        phones.append(str(phone))
    return list(dict.fromkeys(phones)), None


def says_of_phone(stranger: str) -> str:
    says: str = _("A phone has 11 digits, for example +7 916 123-45-67.")
    return f"{stranger[:30]}: {says}"


def read_attribute_lines(given: str) -> tuple[dict[str, str], str | None]:
    """Attributes written as `name = value`, one to a line, and the first line that is not so."""
    found: dict[str, str] = {}
    for line in filter(None, map(str.strip, given.splitlines())):
        name, sign, value = line.partition("=")
        known = attribute_name(name)
        if not sign or known is None or not value.strip():
            return found, line
        found[known] = value.strip()
    return found, None


def says_of_line(wrong: str) -> str:
    says: str = _(
        "“%(line)s” is not understood: write name = value, one to a line.", line=wrong[:60]
    )
    return says


def attribute_lines(attributes: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in attributes)


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
