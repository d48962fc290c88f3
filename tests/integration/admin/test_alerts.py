"""Alerts of the dashboard: each condition, and their absence."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from markupsafe import escape
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from api.admin.presenters.live_figures import SnapshotCache
from shared import metrics
from shared.db.rows import fetch_one_row
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_app, make_client

ReadAlerts = Callable[[], str]
SETTINGS = {
    "OIDC_ISSUER": "http://127.0.0.1:9",
    "OIDC_CLIENT_ID": "notifications",
    "PUBLIC_URL": PUBLIC,
}
MAILING = """
INSERT INTO mailings (name, text, start_at, end_at, started_at, status, settled, failed, audience,
    audience_complete, finished_at)
VALUES (%(name)s, 'Hello', now() + %(starts)s, now() + %(ends)s,
    CASE WHEN %(status)s <> 'scheduled' THEN now() END, %(status)s, %(failed)s > 0, %(failed)s,
    %(failed)s, true, CASE WHEN %(status)s = 'finished' THEN now() END) RETURNING id
"""


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    app = make_app(database_url, redis_url, **SETTINGS)
    body = {"phone": "79160000001", "timezone": "Europe/Moscow"}
    assert make_client(app).post("/api/v1/clients", json=body).status_code == 201
    return app


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Redis as a healthy fleet leaves it: a worker on each queue, and a recent sweep."""
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    redis.set(metrics.SWEPT_KEY, time.time())
    for queue in ("dispatch", "control", "sweep"):
        redis.sadd(f"rq:workers:{queue}", f"rq:worker:{queue}")
        redis.hset(f"rq:worker:{queue}", "state", "idle")
    yield redis
    redis.close()


@pytest.fixture
def read_alerts(app: Flask, redis: Redis, database: Cursor) -> Iterator[ReadAlerts]:
    viewer = Signed(app, "viewer")

    def read_first_part() -> str:
        """Return the first part of the dashboard, without the cached snapshot."""
        redis.delete("notification:admin:live", "notification:admin:live:turn")
        app.extensions["admin_live"] = SnapshotCache()
        page = viewer.client.get("/admin/", base_url=PUBLIC).text
        return page[page.index("data-overview") : page.index('id="provider"')]

    yield read_first_part
    database.execute("DELETE FROM mailings; DELETE FROM imports")
    database.execute("UPDATE provider_state SET throttled_until = NULL")


def insert_mailing(
    database: Cursor, status: str, starts: str = "-1 minute", ends: str = "1 day", failed: int = 0
) -> None:
    values = {"status": status, "starts": starts, "ends": ends, "failed": failed}
    database.execute(MAILING, {"name": f"A {status} one", **values})


def test_no_alerts_without_problems(read_alerts: ReadAlerts, database: Cursor) -> None:
    insert_mailing(database, "running")
    insert_mailing(database, "paused")
    insert_mailing(database, "scheduled", starts="1 hour")
    page = read_alerts()
    assert "All is well" in page
    assert "Needs attention" not in page


@pytest.mark.parametrize(
    ("reason", "title"),
    [
        ("unauthorized", "The provider does not accept our token."),
        ("unavailable", "The provider cannot be reached."),
        ("unknown", "The provider gives no clear answers."),
    ],
)
def test_an_open_circuit_breaker_is_an_alert(
    read_alerts: ReadAlerts, redis: Redis, reason: str, title: str
) -> None:
    now = time.time()
    state: dict[Any, Any] = {"until": now + 8, "opened_at": now - 1, "reason": reason}
    redis.hset(metrics.BREAKER_KEY, mapping=state)
    assert title in read_alerts()
    redis.hset(metrics.BREAKER_KEY, mapping={"until": 0, "opened_at": 0})
    assert "All is well" in read_alerts()


def test_a_throttling_provider_is_an_alert(read_alerts: ReadAlerts, database: Cursor) -> None:
    database.execute("UPDATE provider_state SET throttled_until = now() + interval '1 minute'")
    assert "The provider asks us to wait." in read_alerts()


def test_missing_dispatchers_and_sweeps_are_alerts(
    read_alerts: ReadAlerts, redis: Redis, database: Cursor
) -> None:
    redis.delete("rq:worker:dispatch")  # as after a kill: its name stays in the set for a while
    assert "All is well" in read_alerts(), "without a running mailing, no dispatcher is needed"
    insert_mailing(database, "running")
    assert "No dispatch worker is running." in read_alerts()
    redis.set(metrics.SWEPT_KEY, time.time() - 100)
    assert "The sweep is not running." in read_alerts()


def test_overdue_paused_and_failed_mailings_are_alerts(
    read_alerts: ReadAlerts, database: Cursor
) -> None:
    insert_mailing(database, "scheduled", starts="-2 minutes")
    insert_mailing(database, "paused", ends="1 hour")
    insert_mailing(database, "finished", failed=3)
    page = read_alerts()
    assert "Its start time has passed, and it has not started." in page
    assert "It is paused; what is left expires at" in page
    assert "3 messages have failed." in page
    assert page.index("A scheduled one") < page.index("A paused one"), "the most urgent comes first"


def test_a_failed_import_is_an_alert(read_alerts: ReadAlerts, database: Cursor) -> None:
    database.execute(
        "INSERT INTO imports (status, failure, finished_at) VALUES ('failed', 'it did', now())"
    )
    assert "An import has failed." in read_alerts()


def test_an_unreachable_redis_is_an_alert(database_url: str) -> None:
    app = make_app(database_url, "redis://127.0.0.1:9/0", **SETTINGS)
    viewer = Signed(app, "viewer")
    page = viewer.client.get("/admin/", base_url=PUBLIC)
    assert page.status_code == 200
    assert "Redis cannot be reached." in page.text
    assert viewer.get("/admin/live") == 200


@pytest.mark.parametrize(
    ("seconds_left", "title"),
    [(3 * 86400, "The provider's token expires soon."), (-60, "The provider's token has expired.")],
)
def test_a_token_that_is_due_for_renewal_is_an_alert(
    read_alerts: ReadAlerts, redis: Redis, seconds_left: int, title: str
) -> None:
    now = int(time.time())
    redis.set(metrics.TOKEN_KEY, f"{now + 40 * 86400} {now + 36 * 86400}")
    page = read_alerts()
    assert "All is well" in page
    redis.set(metrics.TOKEN_KEY, f"{now + seconds_left} {now - 86400}")
    assert str(escape(title)) in read_alerts()
    redis.set(metrics.TOKEN_KEY, "not numbers")
    assert "All is well" in read_alerts()


@pytest.mark.parametrize(
    ("expires_at", "shown"),
    [
        ("2031-05-06T07:08:00+00:00", ["2031-05-06T07:08:00+00:00"]),
        ("2021-05-06T07:08:00+00:00", []),  # an alert says so
        (None, []),
    ],
)
def test_the_end_of_the_providers_token_is_shown(
    app: Flask, redis: Redis, expires_at: str | None, shown: list[str]
) -> None:
    redis.delete("notification:admin:live", "notification:admin:live:turn")
    if expires_at is not None:
        end = int(datetime.fromisoformat(expires_at).timestamp())
        redis.set(metrics.TOKEN_KEY, f"{end} {end - 86400}")
    app.extensions["admin_live"] = SnapshotCache()
    page = Signed(app, "viewer").client.get("/admin/", base_url=PUBLIC).text
    assert re.findall(r'token is valid until <time datetime="([^"]+)"', page) == shown


def test_a_braked_mailing_is_an_alert_with_the_most_frequent_refusal(
    read_alerts: ReadAlerts, database: Cursor
) -> None:
    insert_mailing(database, "paused")
    database.execute("SELECT max(id) FROM mailings")
    (mailing_id,) = fetch_one_row(database)
    insert = "INSERT INTO refusal_counts VALUES (%s, %s, 422, %s, %s, '{\"code\":422}', now())"
    database.execute(insert, (mailing_id, 0, "http_422", 900))
    database.execute(insert, (mailing_id, 1, "http_422", 334))
    database.execute(insert, (mailing_id, 1, "code_7", 1000))
    assert "All is well" in read_alerts(), "a person has paused it"
    database.execute("UPDATE mailings SET pause_reason = 'refusals'")
    page = read_alerts()
    assert f"braked:{mailing_id}" in page, "open pages are refreshed at once"
    assert "1,234 answers: HTTP 422" in page
    assert str(escape('For example: {"code":422}')) in page
