"""The calendar of mailings: which start on a day, which go on, and what the provider needs."""

import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor

from tests.integration.admin.test_forms import page
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app, make_client

MAILINGS: tuple[dict[str, Any], ...] = (
    {"name": "Everyone", "start_at": "2030-12-03T09:00:00Z", "end_at": "2030-12-05T09:00:00Z"},
    {
        "name": "Windowed",
        "start_at": "2030-12-03T10:00:00Z",
        "end_at": "2030-12-03T20:00:00Z",
        "window": {"from": "09:00", "to": "10:00"},
        "filter": {"tags": ["vip"]},
    },
    {
        "name": "Slow",
        "start_at": "2030-12-07T09:00:00Z",
        "end_at": "2030-12-08T09:00:00Z",
        "window": {"from": "09:00", "to": "09:01"},
        "rate_limit": 1,
    },
)


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    app = make_admin_app(database_url, redis_url, PROVIDER_RATE="2")
    for body in MAILINGS:
        response = make_client(app).post("/api/v1/mailings", json={"text": "Hi", **body})
        assert response.status_code == 201
    return app


@pytest.fixture
def clients(app: Flask, database: Cursor) -> None:
    database.execute(
        "INSERT INTO clients (phone, operator_code, tag, timezone)"
        " SELECT 79160000000 + n, '916', CASE WHEN n <= 20 THEN 'vip' ELSE '' END, 'UTC'"
        " FROM generate_series(1, 120) AS n ON CONFLICT DO NOTHING"
    )


def day(html: str, number: int) -> str:
    """Return the text of a day of December."""
    days = re.split(r'<li class="day', html)[1:]
    shown = [each for each in days if f'aria-hidden="true">{number}</span>' in each]
    within = next(each for each in shown if not each.startswith(" other"))
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", "<" + within)).split())


def test_a_month_shows_its_mailings_and_the_load_of_each_day(app: Flask, clients: None) -> None:
    html = page(Signed(app, "viewer"), "/admin/mailings/calendar?month=2030-12")
    third, fourth, seventh = (day(html, number) for number in (3, 4, 7))
    assert "09:00 Everyone" in third
    assert "10:00 Windowed" in third
    # 120 and 20 messages at 2 per second.
    assert "up to 140 messages 1 min of 24 hr" in third
    assert "going on: 1" in fourth
    # 120 messages at 1 per second, in a window of a minute.
    assert "up to 120 messages 2 min of 1 min" in seventh
    assert "more than the provider takes" in html
    assert html.count('<li class="day') == 42
    assert "month=2030-11" in html
    assert "month=2031-01" in html


def test_a_month_is_in_the_language_and_any_other_text_is_the_present_month(app: Flask) -> None:
    viewer = Signed(app, "viewer")
    assert "декабрь 2030" in page(viewer, "/admin/mailings/calendar?month=2030-12", "ru")
    for given in ("nonsense", "9999-99", ""):
        html = page(viewer, f"/admin/mailings/calendar?month={given}")
        assert 'aria-current="date"' in html
        assert "Everyone" not in html
    assert "/admin/mailings/calendar" in page(viewer, "/admin/mailings")
