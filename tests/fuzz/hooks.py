"""Hooks of schemathesis: formats, and rules between fields that JSON Schema cannot express."""

import os
import re
import uuid
from datetime import date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import requests
import schemathesis
from hypothesis import strategies as st

from api.cursors import encode_cursor
from api.idempotency import KEY
from api.idempotency import PARAMETER as HEADER
from api.mailings.day_schemas import MAX_DAYS
from shared.domain.time_zones import TIME_ZONES

# Formats that have no meaning of their own in JSON Schema, or a narrower one here: an instant lies
# between 1970 and 2199, and no end may have passed.
schemathesis.openapi.format("iana-timezone", st.sampled_from(sorted(TIME_ZONES)))
schemathesis.openapi.format("cursor", st.integers(0, 2**63 - 1).map(encode_cursor))
schemathesis.openapi.format(
    "date-time",
    st.datetimes(datetime(2031, 1, 1), datetime(2099, 12, 31)).map(lambda at: f"{at.isoformat()}Z"),
)
schemathesis.openapi.format(
    "date", st.dates(date(1970, 1, 1), date(2199, 12, 31)).map(date.isoformat)
)

# The server rejects longer addresses itself (414), before the application.
MAX_QUERY_LENGTH = 6000


@schemathesis.hook
def filter_case(_: Any, case: Any) -> bool:
    """Return whether to send this request."""
    return len(urlencode(case.query or {}, doseq=True)) < MAX_QUERY_LENGTH


CENTURIES = {"start_at": "20", "end_at": "21", "expires_at": "21"}


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Make a request follow the rules that JSON Schema cannot express.

    A mailing ends after it starts, also if a PATCH changes only one of both: so starts are moved to
    this century and ends to the next. A window must not be empty, nor a budget. An Idempotency-Key
    belongs to one body, an If-Match to the present version. Mailings to exclude must exist (here:
    none). A CSV file begins with a header, also one in a form, and a mapping names its columns. A
    phone in a body is the one in the path. Few days lie between two. Other invalid values stay as
    they are; the tests of each resource cover broken rules.
    """
    if case.query and not is_negative(case):
        limit_days(case.query)
        if "mapping" in case.query:
            case.query["mapping"] = '{"columns": {"phone": "phone"}}'
    if case.headers and KEY.fullmatch(str(case.headers.get(HEADER, ""))):
        case.headers[HEADER] = uuid.uuid4().hex
    if case.media_type == "text/csv" and isinstance(case.body, str | bytes):
        text = case.body.decode("utf-8", "replace") if isinstance(case.body, bytes) else case.body
        case.body = f"phone\n{text}"
    if case.headers and "If-Match" in case.headers:
        match_present_version(case)
    if not isinstance(case.body, dict):
        return
    if case.media_type == "multipart/form-data" and "file" in case.body:
        case.body = {"file": "phone\n79161234567\n"}
    phone = (case.path_parameters or {}).get("phone")
    if phone is not None and "phone" in case.body:
        case.body["phone"] = phone
    chosen = case.body.get("filter")
    if isinstance(chosen, dict) and are_ids(chosen.get("exclude_mailing_ids")):
        case.body["filter"] = {**chosen, "exclude_mailing_ids": []}
    for name, century in CENTURIES.items():
        value = case.body.get(name)
        if isinstance(value, str) and re.match(r"2[01][0-9]{2}-", value):
            case.body[name] = century + value[2:]
    if isinstance(case.body.get("budget"), dict) and not is_negative(case):
        case.body["budget"] = limit_something(case.body["budget"])
    window = case.body.get("window")
    if isinstance(window, dict) and window.get("from") == window.get("to") is not None:
        to = "09:00" if window["to"] == "21:00" else "21:00"
        case.body["window"] = {**window, "to": to}


def is_negative(case: Any) -> bool:
    """Return whether the request is meant to break the schema."""
    mode = case.meta.generation.mode if case.meta else None
    return bool(mode == schemathesis.GenerationMode.NEGATIVE)


def limit_days(query: dict[str, Any]) -> None:
    """Move the last day, if there are two, to less than MAX_DAYS after the first."""
    try:
        since, until = (date.fromisoformat(query[name]) for name in ("since", "until"))
    except (KeyError, ValueError):
        return
    until = since + timedelta(days=(until - since).days % MAX_DAYS)
    query["until"] = min(until.isoformat(), "2199-12-31")


def limit_something(budget: dict[str, Any]) -> dict[str, Any]:
    """Return a budget that has a period, and one unit in each."""
    valid = {
        period: limit
        if limit is None or len({*limit.values()} - {None}) == 1
        else {"segments": 5000}
        for period, limit in budget.items()
    }
    return valid if any(valid.values()) else {"day": {"segments": 5000}}


def match_present_version(case: Any) -> None:
    """Replace If-Match: only the present version is accepted, the schema has any.

    An object that cannot be read is not there, or is a client found by its phone: no If-Match.
    """
    if is_negative(case):
        return  # it may be what makes the request invalid
    request = case.as_transport_kwargs()
    answer = requests.get(
        str(request["url"]),
        headers={"Authorization": f"Bearer {os.environ['API_TOKEN']}"},
        timeout=20,
    )
    if "ETag" in answer.headers:
        case.headers["If-Match"] = answer.headers["ETag"]
    else:
        del case.headers["If-Match"]


def are_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 100
        and all(type(each) in (int, float) and 0 < each < 2**63 for each in value)
    )
