"""Previews: the audience that a launch would choose, and what sending to it takes."""

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from tests.integration.conftest import ahead, mailing_body, make_app, make_client, value
from tests.support.fleet import Fleet

_tags = itertools.count()


@pytest.fixture
def preview(client: FlaskClient) -> Callable[..., dict[str, Any]]:
    """A function that previews a mailing with these fields."""

    def preview_mailing(client: FlaskClient = client, **fields: Any) -> dict[str, Any]:
        answer = client.post("/api/v1/mailings/preview", json={**mailing_body(), **fields})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.get_json()
        return found

    return preview_mailing


@pytest.fixture
def crowd(new_client: Callable[..., Any]) -> Callable[..., str]:
    """A function that creates clients with a new tag and returns the tag."""

    def create_clients(*fields: dict[str, Any]) -> str:
        tag = f"crowd {next(_tags)}"
        for each in fields:
            new_client(tag=tag, **each)
        return tag

    return create_clients


def codes(found: dict[str, Any]) -> set[str]:
    return {warning["code"] for warning in found["warnings"]}


def test_a_preview_creates_nothing(
    client: FlaskClient, preview: Callable[..., Any], database: Cursor
) -> None:
    database.execute("SELECT count(*) FROM mailings")
    before = value(database)
    preview()
    database.execute("SELECT count(*) FROM mailings")
    assert value(database) == before


def test_a_preview_counts_the_audience(
    preview: Callable[..., Any], crowd: Callable[..., str], fleet: Fleet, database: Cursor
) -> None:
    tag = crowd(
        {"operator_code": "495", "timezone": "Asia/Omsk"},
        {"operator_code": "495", "timezone": "Europe/Moscow"},
        {"operator_code": "916", "timezone": "Asia/Omsk"},
    )
    found = preview(filter={"tags": [tag]})
    assert found["audience"] == 3
    assert found["by_operator_code"] == [
        {"value": "495", "clients": 2},
        {"value": "916", "clients": 1},
    ]
    zones = {each["value"]: each["clients"] for each in found["by_timezone"]}
    assert zones == {"Asia/Omsk": 2, "Europe/Moscow": 1}
    assert found["by_tag"] == [{"value": tag, "clients": 3}]
    assert preview(filter={"tags": [tag], "operator_codes": ["916"]})["audience"] == 1
    # A launch chooses the same audience.
    mailing_id = fleet.add_mailing(tags=[tag], operator_codes=["495"])
    fleet.launch_mailing(mailing_id)
    launched = fleet.read_mailing(mailing_id)["audience"]
    assert preview(filter={"tags": [tag], "operator_codes": ["495"]})["audience"] == launched == 2


def test_a_preview_shows_the_twenty_largest_tags(
    preview: Callable[..., Any], new_client: Callable[..., Any]
) -> None:
    for n in range(25):
        for _ in range(2 if n == 24 else 1):
            new_client(tag=f"many {n:02}", operator_code="999")
    found = preview(filter={"operator_codes": ["999"]})
    assert found["audience"] == 26
    assert len(found["by_tag"]) == 20
    assert found["by_tag"][0] == {"value": "many 24", "clients": 2}


def test_clients_whose_window_never_opens_are_counted(
    preview: Callable[..., Any], crowd: Callable[..., str]
) -> None:
    tag = crowd({"timezone": "Asia/Tokyo"}, {"timezone": "UTC"}, {"timezone": "UTC"})
    start = (datetime.now(UTC) + timedelta(days=1)).replace(hour=9, minute=0)
    times = {"start_at": start.isoformat(), "end_at": (start + timedelta(hours=2)).isoformat()}
    found = preview(filter={"tags": [tag]}, window={"from": "10:00", "to": "12:00"}, **times)
    assert (found["audience"], found["never_in_window"]) == (3, 1)
    assert codes(found) == {"window_excludes"}
    opens = {each["value"]: each["opens_at"] for each in found["by_timezone"]}
    assert opens["Asia/Tokyo"] is None
    local = datetime.fromisoformat(opens["UTC"]).astimezone(ZoneInfo("UTC"))
    assert (local.hour, local.minute) == (10, 0)
    never = preview(filter={"tags": [tag]}, window={"from": "04:00", "to": "05:00"}, **times)
    assert never["never_in_window"] == 3
    assert codes(never) == {"window_never_opens"}


@pytest.mark.parametrize(
    ("text", "length", "encoding", "segments"),
    [("a" * 161, 161, "GSM-7", 2), ("я" * 71, 71, "UCS-2", 2), ("€", 1, "GSM-7", 1)],
)
def test_encoding_segments_and_cost(
    database_url: str,
    redis_url: str,
    preview: Callable[..., Any],
    crowd: Callable[..., str],
    text: str,
    length: int,
    encoding: str,
    segments: int,
) -> None:
    tag = crowd({}, {}, {})
    found = preview(filter={"tags": [tag]}, text=text)
    assert found["text"]["length"] == length
    assert found["text"]["encoding"] == encoding
    assert found["text"]["segments"] == segments
    assert found["segments_total"] == 3 * segments
    assert found["cost"] is None
    priced = make_client(make_app(database_url, redis_url, SEGMENT_PRICE="2.35"))
    assert (
        preview(priced, filter={"tags": [tag]}, text=text)["cost"]
        == {1: "7.05", 2: "14.10"}[segments]
    )


def test_rate_and_duration_follow_the_lowest_limit(
    database_url: str, redis_url: str, preview: Callable[..., Any], crowd: Callable[..., str]
) -> None:
    tag = crowd(*[{}] * 6)
    unknown = preview(filter={"tags": [tag]})
    assert unknown["rate"] is unknown["expected_seconds"] is unknown["expected_finish_at"] is None
    limited = preview(filter={"tags": [tag]}, rate_limit=2)
    assert (limited["rate"], limited["expected_seconds"]) == (2.0, 3.0)
    start = datetime.fromisoformat(limited["expected_finish_at"]) - timedelta(seconds=3)
    assert timedelta(minutes=59) < start - datetime.now(UTC) <= timedelta(hours=1)
    fleet = make_client(make_app(database_url, redis_url, PROVIDER_RATE="1.5"))
    assert preview(fleet, filter={"tags": [tag]}, rate_limit=2)["rate"] == 1.5
    assert preview(fleet, filter={"tags": [tag]}, rate_limit=1)["rate"] == 1.0
    late = preview(filter={"tags": [tag]}, rate_limit=1, end_at=ahead(hours=1, seconds=4))
    assert codes(late) == {"ends_too_early"}


def test_without_a_limit_the_rate_is_measured(
    preview: Callable[..., Any], database: Cursor
) -> None:
    """Only full minutes count: messages were sent in the minutes before and after."""
    for minutes_ago, count in ((5, 10), (4, 6_000), (3, 12_000), (2, 50)):
        database.execute(
            "INSERT INTO minutes VALUES (1000000000000,"
            " date_trunc('minute', now()) - %s * interval '1 minute', 0, 'sent', %s)",
            (minutes_ago, count),
        )
    database.execute(
        "INSERT INTO mailings (id, text, start_at, end_at)"
        " VALUES (1000000000000, 'x', now() + interval '1 day', now() + interval '2 days')"
    )
    assert preview()["rate"] == 150.0
    database.execute("UPDATE mailings SET rate_limit = 150 WHERE id = 1000000000000")
    assert preview()["rate"] is None
    database.execute("DELETE FROM minutes WHERE mailing_id = 1000000000000")
    database.execute("DELETE FROM mailings WHERE id = 1000000000000")


def test_warnings_of_an_empty_audience_and_a_past_start(
    preview: Callable[..., Any], crowd: Callable[..., str]
) -> None:
    empty = preview(filter={"tags": ["an unused tag"]})
    assert codes(empty) == {"empty_audience"}
    assert empty["audience"] == empty["segments_total"] == 0
    assert codes(preview(filter={"tags": [crowd({})]}, start_at=ahead(hours=-1))) == {
        "starts_at_once"
    }


def test_warnings_of_limits_that_would_pause_it(
    client: FlaskClient, preview: Callable[..., Any], crowd: Callable[..., str], database: Cursor
) -> None:
    etag = client.get("/api/v1/policy").headers["ETag"]
    rules = {"max_audience": 3, "budget": {"month": {"segments": 5}}}
    put = client.put("/api/v1/policy", json=rules, headers={"If-Match": etag})
    assert put.status_code == 200, put.text
    chosen = {"filter": {"tags": [crowd({}, {}, {})]}, "text": "x" * 161}
    try:
        found = preview(**chosen, max_audience=2, budget={"day": {"segments": 4}})
        fitting = preview(**chosen | {"text": "x"}, max_audience=10)
    finally:
        database.execute("DELETE FROM policies WHERE version > 1; DELETE FROM budgets")
    warnings = [each["detail"] for each in found["warnings"]]
    assert warnings == [
        "The mailing would reach 3 clients, and the limit of the mailing is 2: it would pause and "
        "send nothing.",
        "The mailing needs 6 SMS segments, and the budget of the mailing has 4 left for that day: "
        "it would pause when they are used up.",
        "The mailing needs 6 SMS segments, and the budget of the policy has 5 left for that month: "
        "it would pause when they are used up.",
    ]
    assert codes(found) == {"audience_limit_exceeded", "budget_exceeded"}
    assert codes(fitting) == set()


@pytest.mark.parametrize(
    "fields",
    [{"text": ""}, {"end_at": ahead(minutes=30)}, {"start_at": "now"}, {"extra": 1}],
)
def test_a_preview_rejects_what_creation_rejects(
    client: FlaskClient, fields: dict[str, Any]
) -> None:
    body = {**mailing_body(), **fields}
    preview = client.post("/api/v1/mailings/preview", json=body)
    created = client.post("/api/v1/mailings", json=body)
    assert preview.status_code == created.status_code == 422
    assert preview.get_json()["errors"] == created.get_json()["errors"]
    past = {**mailing_body(), "start_at": ahead(hours=-2), "end_at": ahead(hours=-1)}
    assert client.post("/api/v1/mailings/preview", json=past).status_code == 422


def test_clients_of_an_unknown_time_zone_are_counted_apart(
    preview: Callable[..., Any], crowd: Callable[..., str], database: Cursor
) -> None:
    tag = crowd({}, {}, {})
    database.execute(
        "UPDATE clients SET timezone = 'Mars/Phobos'"
        " WHERE id = (SELECT min(id) FROM clients WHERE tag = %s)",
        (tag,),
    )
    filter_ = {"tags": [tag]}
    found = preview(filter=filter_, window={"from": "00:00", "to": "23:59"})
    opens = {zone["value"]: zone["opens_at"] for zone in found["by_timezone"]}
    assert opens["Mars/Phobos"] is None
    assert (found["audience"], found["never_in_window"]) == (3, 0)
    assert "unknown_timezones" in codes(found)
    assert "unknown_timezones" not in codes(preview(filter=filter_))


def test_recipients_and_those_withheld_add_up(
    client: FlaskClient, preview: Callable[..., Any], crowd: Callable[..., str], database: Cursor
) -> None:
    """Each client counts once, for the first reason that holds."""
    named = {"attributes": {"name": "Anna"}}
    tag = crowd(
        {"timezone": "UTC", **named},
        {"timezone": "UTC"},  # lacks the name
        {"timezone": "Asia/Tokyo", **named},  # the window does not open
        {"timezone": "Asia/Tokyo"},
        {"timezone": "UTC", **named},  # opted out
        {"timezone": "Asia/Tokyo"},  # opted out as well
    )
    database.execute("SELECT phone FROM clients WHERE tag = %s ORDER BY id DESC LIMIT 2", (tag,))
    phones = [str(phone) for (phone,) in database.fetchall()]
    assert client.post("/api/v1/opt-outs", json={"phones": phones}).status_code < 300
    start = (datetime.now(UTC) + timedelta(days=1)).replace(hour=9, minute=0)
    found = preview(
        text="{name}",
        filter={"tags": [tag]},
        window={"from": "10:00", "to": "12:00"},
        start_at=start.isoformat(),
        end_at=(start + timedelta(hours=2)).isoformat(),
    )
    assert (found["audience"], found["recipients"], found["segments_total"]) == (6, 1, 1)
    assert {each["reason"]: each["clients"] for each in found["withheld"]} == {
        "opted_out": 2,
        "window_never_opens": 2,
        "missing_attributes": 1,
    }


def test_what_is_left_at_the_end_is_estimated_with_the_window(
    preview: Callable[..., Any], crowd: Callable[..., str]
) -> None:
    """Sending stops while the window is closed: 60 of 100 seconds fit into the last minute."""
    tag = crowd(*[{"timezone": "UTC"}] * 10)
    start = (datetime.now(UTC) + timedelta(days=1)).replace(hour=11, minute=59, second=0)
    times = {"start_at": start.isoformat(), "end_at": (start + timedelta(hours=1)).isoformat()}
    hours = {"from": "10:00", "to": "12:00"}
    limited = {"filter": {"tags": [tag]}, "rate_limit": 1, **times}
    assert preview(window=hours, **limited)["expected_unsent"] == 0
    late = {**limited, "start_at": (start + timedelta(seconds=54)).isoformat()}
    found = preview(window=hours, **late)
    assert found["expected_unsent"] == pytest.approx(4, abs=1)
    assert codes(found) == {"ends_too_early"}
    finish = datetime.fromisoformat(found["expected_finish_at"])
    assert finish - start > timedelta(hours=22)  # the next morning
