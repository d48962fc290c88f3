"""The API in this process, against a real database and a real Redis."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api import create_app
from api.db import db
from tests.support.documented_client import DocumentedClient

ADMIN_URL = "http://127.0.0.1:5998"
TOKEN = "test-0e7c4a95b3f81d62"
# Tests call the API faster than callers may; tests/security has those of the limits.
UNLIMITED = {"REQUESTS_PER_SECOND": "0", "SIGN_INS_PER_MINUTE": "0"}


def make_app(database_url: str, redis_url: str, **settings: str) -> Flask:
    """Create the application with these settings; restore the environment."""
    with pytest.MonkeyPatch.context() as environment:
        values = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "API_BOOTSTRAP_TOKEN": TOKEN,
            "SECRET_KEY": "test-6b1f93d8c42e7a05",
            "DEFAULT_TIMEZONE": "",
            **UNLIMITED,
            **settings,
        }
        for name, value in values.items():
            environment.setenv(name, value)
        app = create_app()
    app.test_client_class = DocumentedClient
    return app


def make_admin_app(database_url: str, redis_url: str, **settings: str) -> Flask:
    """Create the application with the admin UI at ADMIN_URL; no OpenID provider is needed."""
    oidc = {"OIDC_ISSUER": "http://127.0.0.1:9", "OIDC_CLIENT_ID": "notifications"}
    return make_app(database_url, redis_url, **oidc, PUBLIC_URL=ADMIN_URL, **settings)


def make_client(app: Flask) -> FlaskClient:
    """Return a client of the API that sends the token."""
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


def make_pool_read_only(app: Flask) -> None:
    """Make the application's pool consist of one connection that accepts no writes."""
    with app.app_context():
        db.engine.dispose()
        pooled = db.engine.raw_connection()
        pooled.cursor().execute("SET default_transaction_read_only = on")
        pooled.commit()
        pooled.close()


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return make_client(app)


@pytest.fixture(scope="module")
def database(database_url: str) -> Iterator[Cursor]:
    """A cursor of its own, outside of the application, that commits each statement."""
    connection = psycopg2.connect(database_url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        yield cursor
    connection.close()


def value(cursor: Cursor) -> Any:
    """Return the first column of the row that a statement found."""
    row = cursor.fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def new_client(client: FlaskClient, phones: Iterator[str]) -> Callable[..., dict[str, Any]]:
    """Create clients over the API, each with a new phone."""

    def make(**fields: Any) -> dict[str, Any]:
        body = {"phone": next(phones), "timezone": "Europe/Moscow", **fields}
        answer = client.post("/api/v1/clients", json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.get_json()
        return made

    return make


@pytest.fixture(scope="module")
def phones() -> Iterator[str]:
    return (str(number) for number in range(79160000000, 79169999999))


@pytest.fixture
def new_mailing(client: FlaskClient) -> Callable[..., dict[str, Any]]:
    """Makes a mailing over the API, from an hour ahead to two hours ahead."""

    def make(**fields: Any) -> dict[str, Any]:
        answer = client.post("/api/v1/mailings", json={**mailing_body(), **fields})
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.get_json()
        return made

    return make


def mailing_body() -> dict[str, Any]:
    return {"text": "Hello", "start_at": ahead(hours=1), "end_at": ahead(hours=2)}


def ahead(**delta: float) -> str:
    """Return an instant this far from now, as the API writes it."""
    instant = datetime.now(UTC) + timedelta(**delta)
    return instant.isoformat(timespec="microseconds").replace("+00:00", "Z")
