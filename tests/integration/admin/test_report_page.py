"""The daily report, sent on request: at once, once, and recorded in the audit log."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor

from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_app
from tests.support.mail_server import MailServer

# A zone in which it is about noon now, so that no day ends while the test runs.
ZONE = f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"


@pytest.fixture(scope="module")
def server() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str, server: MailServer) -> Flask:
    return make_app(
        database_url,
        redis_url,
        OIDC_ISSUER="http://127.0.0.1:9",
        OIDC_CLIENT_ID="notifications",
        PUBLIC_URL=PUBLIC,
        SMTP_URL=server.url,
        REPORT_RECIPIENTS="anna@example.com",
        REPORT_TIMEZONE=ZONE,
        REPORT_TIME="23:59",
    )


def test_a_report_is_sent_once_by_the_button(
    app: Flask, server: MailServer, database: Cursor
) -> None:
    noon = datetime.now(UTC).replace(hour=12)
    day, today = (noon - timedelta(days=1)).date().isoformat(), noon.date().isoformat()
    admin = Signed(app, "admin")
    page = admin.client.get("/admin/reports", base_url=PUBLIC).text
    assert f"/admin/reports/{day}/send" in page
    assert admin.post(f"/admin/reports/{today}/send") == 404, "the day is not over"
    assert admin.post(f"/admin/reports/{day}/send") == 303
    assert [to for to, _ in server.messages] == [["anna@example.com"]]
    page = admin.client.get("/admin/reports", base_url=PUBLIC).text
    assert "The report is sent." in page
    assert f"/admin/reports/{day}/send" not in page
    assert admin.post(f"/admin/reports/{day}/send") == 303
    assert "was sent already" in admin.client.get("/admin/reports", base_url=PUBLIC).text
    assert len(server.messages) == 1
    database.execute(
        "SELECT actor, changes->>'outcome' FROM audit_log WHERE entity = 'report' ORDER BY id"
    )
    assert database.fetchall() == [
        (admin.name, "sent"),
        (admin.name, "not due"),
    ]


def test_refusal_of_the_mail_server_is_reported(app: Flask, server: MailServer) -> None:
    day = (datetime.now(UTC).replace(hour=12) - timedelta(days=2)).date().isoformat()
    server.replies.append("451 not now")
    admin = Signed(app, "admin")
    assert admin.post(f"/admin/reports/{day}/send") == 303
    assert "tried again by itself" in admin.client.get("/admin/reports", base_url=PUBLIC).text
    assert len(server.messages) == 1
