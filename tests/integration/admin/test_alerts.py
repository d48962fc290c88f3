"""What the dashboard says needs attention: each thing that can be wrong, and that all is well."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor
from redis import Redis

from api.admin.presenters.live_figures import SnapshotCache
from shared import metrics
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_app, make_client

Look = Callable[[], str]
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
    """A fleet that is well: a worker on each queue, and a sweep a moment ago."""
    redis = Redis.from_url(redis_url)
    redis.flushdb()
    redis.set(metrics.SWEPT_KEY, time.time())
    for queue in ("dispatch", "control"):
        redis.sadd(f"rq:workers:{queue}", f"rq:worker:{queue}")
        redis.hset(f"rq:worker:{queue}", "state", "idle")
    yield redis
    redis.close()


@pytest.fixture
def look(app: Flask, redis: Redis, database: Cursor) -> Iterator[Look]:
    viewer = Signed(app, "viewer")

    def look() -> str:
        """The dashboard's first part as it is now, whatever was read a moment ago."""
        redis.delete("notification:admin:live", "notification:admin:live:turn")
        app.extensions["admin_live"] = SnapshotCache()
        page = viewer.client.get("/admin/", base_url=PUBLIC).text
        return page[page.index("data-overview") : page.index('id="running"')]

    yield look
    database.execute("DELETE FROM mailings; DELETE FROM imports")
    database.execute("UPDATE provider_state SET throttled_until = NULL")


def insert(
    database: Cursor, status: str, starts: str = "-1 minute", ends: str = "1 day", failed: int = 0
) -> None:
    values = {"status": status, "starts": starts, "ends": ends, "failed": failed}
    database.execute(MAILING, {"name": f"A {status} one", **values})


def test_all_is_well(look: Look, database: Cursor) -> None:
    insert(database, "running")
    insert(database, "paused")
    insert(database, "scheduled", starts="1 hour")
    page = look()
    assert "All is well" in page
    assert "Needs attention" not in page


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("unauthorized", "The provider does not accept our token."),
        ("unavailable", "The provider cannot be reached."),
        ("unknown", "The provider gives no clear answers."),
    ],
)
def test_an_open_breaker(look: Look, redis: Redis, reason: str, says: str) -> None:
    now = time.time()
    state: dict[Any, Any] = {"until": now + 8, "opened_at": now - 1, "reason": reason}
    redis.hset(metrics.BREAKER_KEY, mapping=state)
    assert says in look()
    redis.hset(metrics.BREAKER_KEY, mapping={"until": 0, "opened_at": 0})
    assert "All is well" in look()


def test_a_provider_that_asks_to_wait(look: Look, database: Cursor) -> None:
    database.execute("UPDATE provider_state SET throttled_until = now() + interval '1 minute'")
    assert "The provider asks us to wait." in look()


def test_a_fleet_without_dispatchers_and_one_without_sweeps(
    look: Look, redis: Redis, database: Cursor
) -> None:
    redis.delete("rq:worker:dispatch")  # killed: its name stays in the set for a while
    assert "All is well" in look(), "as long as nothing is to be sent"
    insert(database, "running")
    assert "No dispatch worker is running." in look()
    redis.set(metrics.SWEPT_KEY, time.time() - 100)
    assert "The sweep is not running." in look()


def test_mailings_that_somebody_should_look_at(look: Look, database: Cursor) -> None:
    insert(database, "scheduled", starts="-2 minutes")
    insert(database, "paused", ends="1 hour")
    insert(database, "finished", failed=3)
    page = look()
    assert "Its start time has passed, and it has not started." in page
    assert "It is paused; what is left expires at" in page
    assert "3 messages have failed." in page
    assert page.index("A scheduled one") < page.index("A paused one"), "the worst first"


def test_an_import_that_failed(look: Look, database: Cursor) -> None:
    database.execute(
        "INSERT INTO imports (status, failure, finished_at) VALUES ('failed', 'it did', now())"
    )
    assert "An import has failed." in look()


def test_without_redis_the_dashboard_says_so(database_url: str) -> None:
    app = make_app(database_url, "redis://127.0.0.1:9/0", **SETTINGS)
    viewer = Signed(app, "viewer")
    page = viewer.client.get("/admin/", base_url=PUBLIC)
    assert page.status_code == 200
    assert "Redis cannot be reached." in page.text
    assert viewer.get("/admin/live") == 200
