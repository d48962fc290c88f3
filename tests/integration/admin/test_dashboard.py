"""The dashboard's order: what to do first, today's and the next mailings, then the provider."""

import re
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from api.admin.presenters.charts import init_charts
from api.admin.presenters.live_figures import SnapshotCache
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_app

ReadDashboard = Callable[[], str]
CLIENT = """
INSERT INTO clients (phone, operator_code, tag, timezone)
VALUES (79160000001, 916, '', 'Europe/Moscow')
"""
MAILING = """
INSERT INTO mailings (name, text, start_at, end_at, status, settled, audience, sent, failed,
    started_at, audience_complete, finished_at)
VALUES (%(name)s, 'Hello', now() + %(starts)s, now() + interval '30 days', %(status)s, %(ended)s,
    CASE WHEN %(ended)s THEN 3 ELSE 0 END, CASE WHEN %(ended)s THEN 2 ELSE 0 END,
    CASE WHEN %(ended)s THEN 1 ELSE 0 END, CASE WHEN %(ended)s THEN now() END, true,
    CASE WHEN %(ended)s THEN now() - CAST(%(ago)s AS interval) END)
"""


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    oidc = {"OIDC_ISSUER": "http://127.0.0.1:9", "OIDC_CLIENT_ID": "notifications"}
    return make_app(database_url, redis_url, **oidc, PUBLIC_URL=PUBLIC)


@pytest.fixture
def read_dashboard(app: Flask, redis_url: str, database: Cursor) -> Iterator[ReadDashboard]:
    clear = "DELETE FROM mailings; DELETE FROM minutes; DELETE FROM clients"
    database.execute(clear)
    operator, redis = Signed(app, "operator"), Redis.from_url(redis_url)

    def read() -> str:
        redis.delete("notification:admin:live", "notification:admin:live:turn")
        app.extensions["admin_live"] = SnapshotCache()
        init_charts(app)
        return operator.client.get("/admin/", base_url=PUBLIC).text

    yield read
    database.execute(clear)
    redis.close()


def insert(
    database: Cursor, name: str, status: str, starts: str = "1 hour", ago: str = "0 s"
) -> None:
    values = {"name": name, "status": status, "starts": starts, "ago": ago}
    database.execute(MAILING, {**values, "ended": status in ("finished", "cancelled")})


def test_a_first_dashboard_says_what_to_do_and_draws_no_empty_charts(
    read_dashboard: ReadDashboard, database: Cursor
) -> None:
    page = read_dashboard()
    assert "Start with your clients" in page
    assert re.search(r'<a class="btn btn-primary" href="/admin/clients/import"><svg', page)
    assert 'class="chart"' not in page
    assert "Running now" not in page
    assert "All is well" not in page
    database.execute(CLIENT)
    page = read_dashboard()
    assert "Create your first mailing" in page
    assert 'class="chart"' not in page
    insert(database, "The first", "scheduled")
    page = read_dashboard()
    assert "Create your first mailing" not in page
    assert 'class="chart"' not in page


def test_todays_and_the_next_mailings_come_first(
    read_dashboard: ReadDashboard, database: Cursor
) -> None:
    database.execute(CLIENT)
    insert(database, "Next week", "scheduled", starts="7 days")
    insert(database, "In an hour", "scheduled")
    insert(database, "Just ended", "finished")
    insert(database, "Ended long ago", "finished", ago="3 days")
    insert(database, "On hold", "paused")
    database.execute(
        "INSERT INTO minutes (mailing_id, minute, shard, status, count)"
        " SELECT id, date_trunc('minute', now()), 15, 'sent', 2 FROM mailings LIMIT 1"
    )
    page = read_dashboard()
    page = page[page.index('id="running"') :]  # an alert above names the one with a failure
    shown = ["Running now", "Next mailings", "In an hour", "Next week", "Paused", "On hold"]
    shown += ["Ended today", "Just ended", "2 of 3 · 1 failed", "Provider", "The last 24 hours"]
    places = [page.find(f">{text}" if text != "2 of 3 · 1 failed" else text) for text in shown]
    assert -1 not in places, dict(zip(shown, places, strict=True))
    assert places == sorted(places)
    assert "Ended long ago" not in page
