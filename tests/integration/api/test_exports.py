"""Exports: every row once across pages, and no text that a spreadsheet would execute."""

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from api.mailings.message_export import LINES
from shared.domain.spreadsheets import unescape_formula
from tests.integration.admin.test_admin_query_plans import recorded_statements
from tests.integration.conftest import value
from tests.support.fleet import Fleet, rejected


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pages for few rows."""
    monkeypatch.setattr("api.mailings.message_export.EXPORT_PAGE_ROWS", 3)
    monkeypatch.setattr("api.clients.service.EXPORT_PAGE_ROWS", 3)


def download(client: FlaskClient, path: str) -> list[dict[str, str]]:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="')
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_exported_clients_are_those_of_the_filter(
    client: FlaskClient, new_client: Callable[..., dict[str, Any]]
) -> None:
    made = [new_client(tag="друзья", timezone="Asia/Omsk") for _ in range(7)]
    new_client(tag="others")
    rows = download(client, "/clients.csv?tag=%D0%B4%D1%80%D1%83%D0%B7%D1%8C%D1%8F")
    assert rows == [{name: str(each[name]) for name in rows[0]} for each in made]
    assert len(download(client, "/clients.csv")) >= 8
    phone = made[3]["phone"]
    for query in (f"phone={phone}", f"phone={phone}&timezone=Asia/Omsk&operator_code=916"):
        assert [row["phone"] for row in download(client, f"/clients.csv?{query}")] == [phone]
    assert download(client, f"/clients.csv?phone={phone}&tag=none") == []


def test_export_ends_after_an_exactly_full_page(
    client: FlaskClient, new_client: Callable[..., Any]
) -> None:
    for n in (3, 6):
        for _ in range(3):
            new_client(tag="full")
        assert len(download(client, "/clients.csv?tag=full")) == n


@pytest.mark.parametrize("tag", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_formulas_are_escaped(
    client: FlaskClient, new_client: Callable[..., Any], tag: str
) -> None:
    phone = new_client(tag=tag)["phone"]
    (row,) = download(client, f"/clients.csv?phone={phone}")
    assert row["tag"].startswith("'")
    assert unescape_formula(row["tag"]) in (tag, tag.replace("\r", "\n"))
    assert row["phone"] == phone


def test_excel_format_has_a_mark_and_semicolons(
    client: FlaskClient, new_client: Callable[..., Any]
) -> None:
    phone = new_client(tag="a;b")["phone"]
    data = client.get(f"/api/v1/clients.csv?phone={phone}&excel=true").get_data()
    assert data.startswith(b"\xef\xbb\xbfid;phone;")
    (row,) = csv.DictReader(io.StringIO(data.decode("utf-8-sig")), delimiter=";")
    assert (row["phone"], row["tag"]) == (phone, "a;b")


@pytest.fixture(scope="module")
def mailing(module_fleet: Fleet) -> int:
    """11 messages: 3 sent, 4 failed, 4 pending, in batches of 2."""
    fleet = module_fleet
    mailing_id = fleet.add_launched_mailing(11, batch_size=2)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(accepted=worker.ids)
    worker = fleet.claim_batch(mailing_id)
    worker.finish(accepted=worker.ids[:1], reports=[rejected(worker.ids[1])])
    worker = fleet.claim_batch(mailing_id)
    worker.finish(reports=[rejected(id_) for id_ in worker.ids])
    worker = fleet.claim_batch(mailing_id)
    worker.record(reports=[rejected(worker.ids[0])])
    return mailing_id


def test_a_page_of_messages_is_one_statement(app: Flask, client: FlaskClient, mailing: int) -> None:
    with recorded_statements(app) as seen:
        assert len(download(client, f"/mailings/{mailing}/messages.csv")) == 11
    tables = ("FROM messages", "FROM clients", "JOIN clients")
    read = [statement for statement, _ in seen if any(table in statement for table in tables)]
    assert len(read) == 4, "one for each page, with the clients of its messages"


def test_exported_messages_equal_the_list(
    client: FlaskClient, mailing: int, database: Cursor
) -> None:
    path = f"/mailings/{mailing}/messages.csv"
    rows = download(client, path)
    assert len(rows) == 11
    assert len({row["id"] for row in rows}) == 11
    listed = client.get(f"/api/v1/mailings/{mailing}/messages?limit=500").get_json()["items"]
    for row, message in zip(rows, listed, strict=True):
        for name in ("id", "client_id", "status", "attempts"):
            assert row[name] == str(message[name])
        assert row["reason"] == (message["reason"] or "")
        assert row["sent_at"] == (message["sent_at"] or "")
        phone = client.get(f"/api/v1/clients/{row['client_id']}").get_json()["phone"]
        assert row["phone"] == phone
    for status, count in (("sent", 3), ("failed", 4), ("pending", 4), ("expired", 0)):
        found = download(client, f"{path}?status={status}")
        assert found == [row for row in rows if row["status"] == status]
        assert len(found) == count


def test_deleted_client_has_an_empty_phone(client: FlaskClient, mailing: int) -> None:
    path = f"/mailings/{mailing}/messages.csv"
    client_id = download(client, path)[0]["client_id"]
    assert client.delete(f"/api/v1/clients/{client_id}").status_code == 204
    row = download(client, path)[0]
    assert (row["client_id"], row["phone"], row["status"]) == (client_id, "", "sent")


def test_formulas_in_provider_responses_are_escaped(
    client: FlaskClient, mailing: int, database: Cursor
) -> None:
    database.execute(
        "UPDATE messages SET reason = '=HYPERLINK(1)' WHERE mailing_id = %s AND status = 'failed'",
        (mailing,),
    )
    rows = download(client, f"/mailings/{mailing}/messages.csv?status=failed")
    assert {row["reason"] for row in rows} == {"'=HYPERLINK(1)"}


REASONS = (
    *(None, "", "rejected: http_422", "attempts exhausted: code_-17", "rejected: (a) 1.5 -1"),
    *("=1+1", "-1", "@x", "'=1", "a,=1", "a;=1", "\t=1", "\r=1", "a\n=1", " =1", "1 =1"),
    *('say "no"', "a,b", "a;b", "a\nb", "a\rb", "Причина", "\u00a0=1", "rejected: http_422\n"),
)
INSTANTS = ("2026-01-31 23:59:59.999999+03", "2026-11-29 00:00:00Z", "1999-12-31 12:00:00.5-11:30")


@pytest.mark.parametrize("excel", [False, True])
def test_lines_of_postgresql_are_those_of_python(
    client: FlaskClient, module_fleet: Fleet, excel: bool
) -> None:
    """Pages of plain reasons come from PostgreSQL, others from Python: the bytes are the same."""
    # Each reason thrice: pages are of one reason, so that plain ones come from PostgreSQL.
    reasons = [reason for reason in REASONS for _ in INSTANTS]
    fleet = module_fleet
    fleet.check_totals()
    mailing_id = fleet.add_launched_mailing(len(reasons))
    fleet.ignore_earlier_mailings()  # the statuses are made up
    found = fleet.query("SELECT id FROM messages WHERE mailing_id = %s ORDER BY id", mailing_id)
    for n, (message_id,) in enumerate(found):
        at = INSTANTS[n % len(INSTANTS)]
        status, sent_at = ("sent", at) if n % 2 else ("failed", None)
        changes = reasons[n], at, status, sent_at, n, n % 4 == 0
        fleet.query(
            "UPDATE messages SET reason = %s, created_at = %s, status = %s, sent_at = %s,"
            " attempts = %s, in_doubt = %s WHERE mailing_id = %s AND id = %s",
            *(*changes, mailing_id, message_id),
        )
    address = f"/api/v1/mailings/{mailing_id}/messages.csv?excel={str(excel).lower()}"
    written = client.get(address).get_data()
    with pytest.MonkeyPatch.context() as patch:
        never = LINES.replace("coalesce(bool_and", "false AND coalesce(bool_and")
        patch.setattr("api.mailings.message_export.LINES", never)
        assert client.get(address).get_data() == written
    assert written.count(b"Z") >= len(REASONS) * 3


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/clients.csv?limit=5", 422),
        ("/clients.csv?excel=yes", 422),
        ("/clients.csv?phone=1", 422),
        ("/mailings/999999/messages.csv", 404),
        ("/mailings/1/messages.csv?status=lost", 422),
    ],
)
def test_invalid_export_requests_are_rejected(client: FlaskClient, path: str, status: int) -> None:
    assert client.get(f"/api/v1{path}").status_code == status


def test_no_connection_is_held_between_pages(
    app: Flask, client: FlaskClient, new_client: Callable[..., Any], database: Cursor
) -> None:
    """A slow download keeps no transaction open."""
    for _ in range(10):
        new_client(tag="slow")
    answer = client.get("/api/v1/clients.csv?tag=slow", buffered=False)
    parts: Iterator[Any] = iter(answer.response)
    next(parts)
    next(parts)
    database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'api'"
        " AND datname = current_database() AND state <> 'idle'"
    )
    assert value(database) == 0
    assert len(b"".join(parts).splitlines()) > 0
    answer.close()
