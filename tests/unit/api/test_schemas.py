"""The schemas accept the documented values, and report each error of others."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time
from typing import Any, Self

import pytest
from flask import Request
from pydantic import BaseModel, TypeAdapter, ValidationError, model_validator
from werkzeug.test import EnvironBuilder

from api.clients.schemas import ClientChanges, ClientQuery, NewClient
from api.cursors import MAX_ID, decode_cursor, encode_cursor
from api.errors import InvalidFields
from api.http.pagination import build_page
from api.http.request_parsing import parse_query
from api.mailings.day_schemas import MAX_DAYS, DaysQuery
from api.mailings.schemas import MailingChanges, NewMailing
from api.schemas.base import Query
from api.schemas.fields import DAY_PATTERN, ClockTime, Instant, Phone, Search, Timezone
from api.schemas.invalid_value import invalid_value
from shared.domain.error_texts import error_text

MAILING = {
    "text": "Hello",
    "start_at": "2026-12-01T09:00:00+03:00",
    "end_at": "2026-12-01T21:00:00+03:00",
}
CLIENT = {"phone": "79161234567", "timezone": "Europe/Moscow"}
NULL = {"type": "null"}


def codes(schema: type[BaseModel], document: Any) -> dict[tuple[int | str, ...], str]:
    """Return the codes of errors by their location; none if the document is valid."""
    try:
        schema.model_validate(document)
    except ValidationError as error:
        return {each["loc"]: each["type"] for each in error.errors()}
    return {}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-12-01T09:00:00+03:00", datetime(2026, 12, 1, 6, tzinfo=UTC)),
        ("2026-12-01T09:00:00Z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01t09:00:00z", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01 09:00:00-00:00", datetime(2026, 12, 1, 9, tzinfo=UTC)),
        ("2026-12-01T09:00:00.5-11:30", datetime(2026, 12, 1, 20, 30, 0, 500000, tzinfo=UTC)),
        ("2026-12-01T09:00:00.123456789Z", datetime(2026, 12, 1, 9, 0, 0, 123456, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2199-12-31T23:59:59Z", datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_instants_are_converted_to_utc(written: str, read: datetime) -> None:
    instant = TypeAdapter(Instant).validate_python(written)
    assert instant == read
    assert instant.tzinfo is UTC


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("2026-12-01T09:00:00", "instant_naive"),
        ("2026-12-01", "instant_format"),
        ("2026-12-01T09:00Z", "instant_format"),
        ("2026-12-01T09:00:00+0300", "instant_format"),
        ("2026-12-01T09:00:00 +03:00", "instant_format"),
        ("tomorrow", "instant_format"),
        ("", "instant_format"),
        (" 2026-12-01T09:00:00Z", "instant_format"),
        ("2026-12-01T09:00:00Z\n", "instant_format"),
        ("٢٠٢٦-12-01T09:00:00Z", "instant_format"),
        (1796115600, "instant_format"),
        (None, "instant_format"),
        (True, "instant_format"),
        ("2026-02-29T00:00:00Z", "instant_unreal"),
        ("2026-13-01T00:00:00Z", "instant_unreal"),
        ("2026-12-01T24:00:00Z", "instant_unreal"),
        ("2026-12-01T09:00:61Z", "instant_unreal"),
        ("2026-12-01T09:00:00+24:00", "instant_unreal"),
        ("2026-12-01T09:00:00+03:60", "instant_unreal"),
        ("0001-01-01T00:00:00+14:00", "instant_range"),
        ("9999-12-31T23:59:60Z", "instant_unreal"),
        ("0000-01-01T00:00:00Z", "instant_unreal"),
        ("1969-12-31T23:59:59Z", "instant_range"),
        ("2200-01-01T00:00:00Z", "instant_range"),
    ],
)
def test_invalid_instants_are_rejected(written: object, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Instant).validate_python(written)
    assert caught.value.errors()[0]["type"] == code


@pytest.mark.parametrize(
    "phone",
    [
        "9161234567",
        "89161234567",
        "+79161234567",
        "7916123456",
        "791612345678",
        "7916123456a",
        "79161234567\n",
        " 79161234567",
        "7916123456７",
        "",
        79161234567,
        None,
    ],
)
def test_phones_are_eleven_digits_that_start_with_7(phone: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Phone).validate_python(phone, strict=True)


@pytest.mark.parametrize("zone", ["Moscow", "europe/moscow", "MSK+3", "localtime", "../etc", ""])
def test_unknown_time_zones_are_rejected(zone: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Timezone).validate_python(zone)


@pytest.mark.parametrize("clock", ["24:00", "9:00", "09:60", "09:00:00", "09:00\n", 900, None])
def test_clock_times_are_hours_and_minutes(clock: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ClockTime).validate_python(clock)


def test_mailing_with_all_fields_is_accepted() -> None:
    mailing = NewMailing.model_validate(
        {
            **MAILING,
            "name": "Sale",
            "filter": {"operator_codes": ["916", "916", "903"], "tags": ["b", "a", "b"]},
            "window": {"from": "21:00", "to": "09:30"},
            "rate_limit": 10,
        }
    )
    assert mailing.filter.operator_codes == ["916", "903"]
    assert mailing.filter.tags == ["b", "a"]
    assert mailing.window is not None
    assert (mailing.window.start, mailing.window.end) == (time(21), time(9, 30))


@pytest.mark.parametrize(
    ("field", "value", "place", "code"),
    [
        ("text", "", ("text",), "string_too_short"),
        ("text", "x" * 2001, ("text",), "string_too_long"),
        ("text", 5, ("text",), "string_type"),
        ("name", "", ("name",), "string_too_short"),
        ("name", "x" * 201, ("name",), "string_too_long"),
        ("filter", None, ("filter",), "model_type"),
        ("filter", [], ("filter",), "model_type"),
        ("filter", {"tag": "a"}, ("filter", "tag"), "extra_forbidden"),
        ("filter", {"tags": "a"}, ("filter", "tags"), "list_type"),
        ("filter", {"tags": ["x" * 65]}, ("filter", "tags", 0), "string_too_long"),
        ("filter", {"tags": ["a"] * 1001}, ("filter", "tags"), "too_long"),
        (
            "filter",
            {"operator_codes": ["916", "91"]},
            ("filter", "operator_codes", 1),
            "operator_code_format",
        ),
        ("window", {"from": "09:00"}, ("window", "to"), "missing"),
        ("window", {"from": "09:00", "to": "09:00"}, ("window",), "window_empty"),
        ("window", {"start": "09:00", "to": "10:00"}, ("window", "from"), "missing"),
        ("rate_limit", 0, ("rate_limit",), "greater_than_equal"),
        ("rate_limit", 100_001, ("rate_limit",), "less_than_equal"),
        ("rate_limit", True, ("rate_limit",), "int_type"),
        ("rate_limit", "10", ("rate_limit",), "int_type"),
        ("rate_limit", 1.5, ("rate_limit",), "int_type"),
        ("status", "running", ("status",), "extra_forbidden"),
    ],
)
def test_invalid_mailings_are_rejected(
    field: str, value: object, place: tuple[int | str, ...], code: str
) -> None:
    assert codes(NewMailing, {**MAILING, field: value})[place] == code


def test_all_errors_are_reported_at_once() -> None:
    found = codes(NewMailing, {"start_at": "now", "windows": None})
    assert found == {
        ("text",): "missing",
        ("start_at",): "instant_format",
        ("end_at",): "missing",
        ("windows",): "extra_forbidden",
    }


def test_time_zone_is_required_unless_there_is_a_default() -> None:
    without = {"phone": CLIENT["phone"]}
    assert codes(NewClient, without) == {("timezone",): "missing"}
    context = {"default_timezone": "Asia/Omsk"}
    assert NewClient.model_validate(without, context=context).timezone == "Asia/Omsk"
    assert NewClient.model_validate(CLIENT, context=context).timezone == "Europe/Moscow"
    with pytest.raises(ValidationError):
        NewClient.model_validate({**CLIENT, "timezone": None}, context=context)


def test_changes_contain_the_sent_fields_only() -> None:
    assert ClientChanges.model_validate({}).sent_fields() == {}
    assert ClientChanges.model_validate({"operator_code": None}).sent_fields() == {
        "operator_code": None
    }
    assert MailingChanges.model_validate({"window": None}).sent_fields() == {"window": None}


@pytest.mark.parametrize("field", ["phone", "tag", "timezone"])
def test_required_fields_of_a_client_cannot_be_removed(field: str) -> None:
    assert (field,) in codes(ClientChanges, {field: None})


def test_query_values_stay_strings() -> None:
    query = ClientQuery.model_validate({"tag": "900", "phone": "79161234567", "limit": "7"})
    assert (query.tag, query.phone, query.limit, query.cursor) == ("900", "79161234567", 7, 0)


@pytest.mark.parametrize(
    "limit", ["0", "501", "-1", "1.5", "1e2", " 5", "+5", "٥", "", "x", "9" * 99]
)
def test_limits_are_whole_numbers_within_bounds(limit: str) -> None:
    assert codes(ClientQuery, {"limit": limit}) == {("limit",): "limit"}


@pytest.mark.parametrize(
    "day",
    [
        *("1969-12-31", "2200-01-01", "9999-12-31", "0001-01-01", "2030-02-30", "2030-13-01"),
        *("20301202", "2030-W49-1", "2030-12-2", "2030-12-02\n", "٢٠٣٠-12-02", "today", ""),
    ],
)
def test_invalid_days_are_rejected(day: str) -> None:
    assert codes(DaysQuery, {"since": day, "until": "2030-12-02"}) == {("since",): "day_format"}
    assert codes(DaysQuery, {"since": "2030-12-02", "until": day}) == {("until",): "day_format"}


@pytest.mark.parametrize("until", ["2030-12-01", "1970-01-01", "2031-12-03", "2199-12-31"])
def test_days_end_soon_after_they_begin(until: str) -> None:
    query = {"since": "2030-12-02", "until": until}
    assert codes(DaysQuery, query) == {("until",): "days_range"}


@pytest.mark.parametrize(
    ("since", "until", "count"),
    [
        ("2030-12-02", "2030-12-02", 1),
        ("2030-12-02", "2031-12-02", MAX_DAYS),
        ("1970-01-01", "1970-12-31", 365),
        ("2199-01-01", "2199-12-31", 365),
    ],
)
def test_valid_days_are_accepted(since: str, until: str, count: int) -> None:
    query = DaysQuery.model_validate({"since": since, "until": until, "mailing_id": "17"})
    assert (query.until - query.since).days == count - 1
    assert query.mailing_id == 17
    assert all(re.search(DAY_PATTERN, day) for day in (since, until))


def query_fields() -> Iterator[tuple[type[Query], str, dict[str, Any]]]:
    """Yield every query's fields with their schemas, null left out."""
    kinds = [Query]
    for kind in kinds:
        kinds += kind.__subclasses__()
        for name, schema in kind.model_json_schema().get("properties", {}).items():
            (branch,) = [each for each in schema.get("anyOf", [schema]) if each != NULL]
            yield kind, name, branch


def test_numbers_of_queries_have_the_bounds_of_their_schema() -> None:
    seen = set()
    for kind, name, schema in query_fields():
        if schema.get("type") not in ("integer", "number"):
            continue
        seen.add(name)
        for value in (schema["minimum"], schema["maximum"]):
            assert (name,) not in codes(kind, {name: str(value)}), (kind, name)
        for value in (schema["minimum"] - 1, schema["maximum"] + 1, "1_0", "1.0", " 1", "9" * 5000):
            assert (name,) in codes(kind, {name: str(value)}), (kind, name)
    assert {"limit", "entity_id", "mailing_id"} <= seen


class Both(Query):
    @model_validator(mode="after")
    def _check(self) -> Self:
        raise invalid_value("days_range", error_text("do not fit"))


def test_error_of_a_whole_query_names_no_parameter() -> None:
    with pytest.raises(InvalidFields) as caught:
        parse_query(Request(EnvironBuilder().get_environ()), Both)
    assert caught.value.detail == "do not fit"
    assert [each.parameter for each in caught.value.field_errors] == [""]


@pytest.mark.parametrize("last_id", [0, 1, 42, MAX_ID])
def test_cursors_are_decoded(last_id: int) -> None:
    assert decode_cursor(encode_cursor(last_id)) == last_id


@pytest.mark.parametrize(
    "cursor",
    ["", "1", "MQ==", "!!!!", "LTE", "MDE", "MQ\n", "Ｍ", "OTIyMzM3MjAzNjg1NDc3NTgwOA", "A" * 9999],
)
def test_foreign_cursors_are_rejected(cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        decode_cursor(cursor)


def test_page_has_a_cursor_if_more_rows_follow() -> None:
    def present(number: int) -> dict[str, Any]:
        return {"id": number}

    full = build_page([1, 2, 3], 2, present, lambda number: number)
    assert full["items"] == [{"id": 1}, {"id": 2}]
    assert decode_cursor(full["next_cursor"]) == 2
    assert build_page([1, 2], 2, present, lambda number: number)["next_cursor"] is None
    assert build_page([], 2, present, lambda number: number) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("text", [" ", "\n", "\t \r", "a", " a b "])
def test_the_document_says_that_blanks_alone_are_no_search(text: str) -> None:
    """Clients made from it must not be refused what it permits."""
    search: TypeAdapter[str] = TypeAdapter(Search)
    permitted = re.search(search.json_schema()["pattern"], text) is not None
    if permitted:
        assert search.validate_python(text) == text.strip()
    else:
        with pytest.raises(ValidationError):
            search.validate_python(text)
