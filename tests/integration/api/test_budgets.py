"""Budgets over the API: amounts, what is used up, and resuming a mailing that one has paused."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.schemas.budget_use import BudgetUseAnswer
from tests.integration.conftest import mailing_body, make_app, make_client

POLICY = "/api/v1/policy"
MAILINGS = "/api/v1/mailings"
Create = Callable[..., dict[str, Any]]
PAUSE_BY_BUDGET = """
    UPDATE mailings SET status = 'paused', pause_reason = 'budget', started_at = now() WHERE id = %s
"""
SPEND = "INSERT INTO budget_days VALUES (%s, (now() AT TIME ZONE 'Europe/Moscow')::date, 3, %s)"


@pytest.fixture(autouse=True)
def no_budgets(database: Cursor) -> Iterator[None]:
    clear = "DELETE FROM policies WHERE version > 1; DELETE FROM budgets; DELETE FROM budget_days"
    database.execute(clear)
    yield
    database.execute(clear)


def get_use(client: FlaskClient, address: str) -> dict[str, Any]:
    answer = client.get(address)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    BudgetUseAnswer.model_validate(found)
    return found


def put_budget(client: FlaskClient, budget: dict[str, Any] | None) -> None:
    etag = client.get(POLICY).headers["ETag"]
    answer = client.put(POLICY, json={"budget": budget}, headers={"If-Match": etag})
    assert answer.status_code == 200, answer.text


def test_an_amount_becomes_the_segments_that_it_pays_for(
    database_url: str, redis_url: str, database: Cursor
) -> None:
    client = make_client(make_app(database_url, redis_url, SEGMENT_PRICE="2.40"))
    put_budget(client, {"day": {"amount": "25.00"}})
    assert get_use(client, f"{POLICY}/budget") == {
        "day": {"limit": 10, "spent": 0, "reserved": 0, "left": 10, "cost": "0.00"},
        "month": {"limit": None, "spent": 0, "reserved": 0, "left": None, "cost": "0.00"},
    }
    database.execute(SPEND, (0, 7))
    day = get_use(client, f"{POLICY}/budget")["day"]
    assert (day["spent"], day["left"], day["cost"]) == (7, 3, "16.80")
    put_budget(client, None)
    assert get_use(client, f"{POLICY}/budget") == {"day": None, "month": None}


def test_an_amount_needs_a_price(client: FlaskClient) -> None:
    body = mailing_body() | {"budget": {"month": {"amount": "25.00"}}}
    answer = client.post(MAILINGS, json=body)
    assert answer.status_code == 422
    (error,) = answer.get_json()["errors"]
    assert (error["pointer"], error["code"]) == ("/budget/month/amount", "segment_price_missing")


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize("whose", ["policy", "mailing"])
def test_resuming_is_refused_while_the_budget_is_used_up(
    client: FlaskClient, new_mailing: Create, database: Cursor, whose: str, period: str
) -> None:
    mailing_id = new_mailing(budget={"month": {"segments": 100}})["id"]
    address = f"{MAILINGS}/{mailing_id}"
    budget = {period: {"segments": 5}}
    if whose == "policy":
        put_budget(client, budget)
    else:
        assert client.patch(address, json={"budget": budget}).status_code == 200
    database.execute(SPEND, (0 if whose == "policy" else mailing_id, 5))
    database.execute(PAUSE_BY_BUDGET, (mailing_id,))
    refused = client.post(f"{address}/resume")
    assert (refused.status_code, refused.get_json()["code"]) == (409, "budget_used_up")
    assert whose in refused.get_json()["detail"]
    assert client.post(f"{address}/pause").get_json()["pause_reason"] == "budget"
    if whose == "policy":
        put_budget(client, {period: {"segments": 6}})
        database.execute("UPDATE budget_days SET segments = 5")
    else:
        assert client.patch(address, json={"budget": None}).status_code == 200
        assert get_use(client, f"{address}/budget") == {"day": None, "month": None}
    assert client.post(f"{address}/resume").get_json()["status"] == "running"


def test_resuming_is_refused_while_no_message_fits(
    client: FlaskClient, new_mailing: Create, database: Cursor
) -> None:
    """A message of two segments does not fit into one that is left."""
    mailing_id = new_mailing(text="x" * 161, budget={"month": {"segments": 6}})["id"]
    address = f"{MAILINGS}/{mailing_id}"
    database.execute(SPEND, (mailing_id, 5))
    database.execute(PAUSE_BY_BUDGET, (mailing_id,))
    refused = client.post(f"{address}/resume")
    assert (refused.status_code, refused.get_json()["code"]) == (409, "budget_used_up")
    assert client.patch(address, json={"text": "x"}).status_code == 200
    assert client.post(f"{address}/resume").get_json()["status"] == "running"


@pytest.mark.parametrize("amount", ["0", "0.00", "2.39"])
def test_an_amount_pays_for_a_segment_at_least(
    database_url: str, redis_url: str, amount: str
) -> None:
    client = make_client(make_app(database_url, redis_url, SEGMENT_PRICE="2.40"))
    body = mailing_body() | {"budget": {"day": {"amount": amount}}}
    answer = client.post(MAILINGS, json=body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.get_json()["errors"]
    assert (error["pointer"], error["code"]) == ("/budget/day/amount", "amount_too_small")


def test_days_are_listed_with_their_cost(database_url: str, redis_url: str) -> None:
    client = make_client(make_app(database_url, redis_url, SEGMENT_PRICE="2.40"))
    address = "/api/v1/statistics/days"
    days = client.get(f"{address}?since=2026-02-27&until=2026-03-01").get_json()["items"]
    assert [day["day"] for day in days] == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert days[0]["cost"] | {"currency": None} == {
        "sent": "0.00",
        "in_doubt": "0.00",
        "currency": None,
    }
    for query, code in (
        ("since=2026-02-30&until=2026-03-01", "day_format"),
        ("since=2026-03-02&until=2026-03-01", "days_range"),
        ("since=2024-01-01&until=2026-03-01", "days_range"),
    ):
        answer = client.get(f"{address}?{query}")
        assert (answer.status_code, answer.get_json()["errors"][0]["code"]) == (422, code)
