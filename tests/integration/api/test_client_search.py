"""The search of clients by parts of phones, and by words of tags and attributes."""

import json
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from sqlalchemy import literal_column, select

import api.db
from api.clients.search import ClientSearch
from shared.db.models import Client
from tests.integration.admin.test_forms import page
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_admin_app, make_client

CLIENTS = {
    "anna": ("79161234567", "vip", {"Имя": "Анна", "Город": "Нижний Новгород"}),
    "semyon": ("79265550123", "Оптовики", {"Имя": "Семён", "card": "4567-0001"}),
    "oleg": ("79035550199", "", {"name": "Oleg O'Hara", "mail": "oleg@example.com"}),
    "petr": ("78125550100", "regular", {"Имя": "Пётр-Павел", "note": "back\\slash"}),
}
COUNT_MANY = """
INSERT INTO clients (phone, operator_code, tag, timezone, attributes)
SELECT 79500000000 + n, '950', 'crowd', 'Europe/Moscow', jsonb_build_object('n', n::text)
FROM generate_series(1, 10100) AS n
"""


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    client = make_client(app)
    for phone, tag, attributes in CLIENTS.values():
        body = {"phone": phone, "tag": tag, "timezone": "Asia/Omsk", "attributes": attributes}
        assert client.post("/api/v1/clients", json=body).status_code == 201
    return client


def find(client: FlaskClient, search: str, **more: str) -> set[str]:
    response = client.get("/api/v1/clients", query_string={"search": search, **more})
    assert response.status_code == 200, response.text
    names = {phone: name for name, (phone, *_) in CLIENTS.items()}
    return {names[item["phone"]] for item in response.get_json()["items"]}


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("+7 916 123-45-67", {"anna"}),
        ("8 (916) 123 45 67", {"anna"}),
        ("9161234567", {"anna"}),
        ("123-45", {"anna"}),
        ("4567", {"anna", "semyon"}),
        ("8926", {"semyon"}),
        ("+7926", {"semyon"}),
        ("+926", set()),
        ("555-01", {"semyon", "oleg", "petr"}),
        ("анн", {"anna"}),
        ("АННА", {"anna"}),
        ("новг", {"anna"}),
        ("анна новгород", {"anna"}),
        ("анна семен", set()),
        ("семен", {"semyon"}),
        ("Семён", {"semyon"}),
        ("опт", {"semyon"}),
        ("семен 0123", {"semyon"}),
        ("семен 0199", set()),
        ("o'hara", {"oleg"}),
        ("oleg@exa", {"oleg"}),
        ("петр-павел", {"petr"}),
        ("slash", {"petr"}),
        ("card", set()),
        ("&|!:*", set()),
        ("\\", set()),
        ("'", set()),
    ],
)
def test_clients_are_found_by_parts(client: FlaskClient, search: str, found: set[str]) -> None:
    assert find(client, search) == found


def test_a_search_is_one_filter_among_others(client: FlaskClient) -> None:
    assert find(client, "555-01", tag="regular") == {"petr"}
    found = client.get("/api/v1/clients.csv", query_string={"search": "555-01", "tag": "regular"})
    assert "78125550100" in found.text
    assert "79265550123" not in found.text


@pytest.mark.parametrize("search", ["", "  ", "a" * 101])
def test_an_unusable_search_is_rejected(client: FlaskClient, search: str) -> None:
    response = client.get("/api/v1/clients", query_string={"search": search})
    assert response.status_code == 422
    assert response.get_json()["errors"][0]["parameter"] == "search"


def test_deleted_clients_are_not_found(client: FlaskClient) -> None:
    body = {"phone": "79990001122", "timezone": "Asia/Omsk", "attributes": {"name": "Ephemera"}}
    created = client.post("/api/v1/clients", json=body).get_json()
    assert len(client.get("/api/v1/clients?search=ephem").get_json()["items"]) == 1
    client.delete(f"/api/v1/clients/{created['id']}")
    assert client.get("/api/v1/clients?search=ephem").get_json()["items"] == []
    assert client.get("/api/v1/clients?search=0001122").get_json()["items"] == []


def test_a_search_without_end_is_refused_with_advice(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.db, "SEARCH_SECONDS", 0.001)
    monkeypatch.setattr("api.clients.search.WORDS", literal_column("pg_sleep(9)::text::tsvector"))
    for path in ("clients", "clients.csv"):
        response = client.get(f"/api/v1/{path}?search=anna")
        assert response.status_code == 422
        (error,) = response.get_json()["errors"]
        assert (error["code"], error["parameter"]) == ("search_too_slow", "search")
    viewer = Signed(app, "viewer")
    exported = viewer.client.get("/admin/clients.csv?q=anna", base_url=PUBLIC)
    assert exported.headers["Location"].endswith("/admin/clients?q=anna")
    assert "takes too long" in page(viewer, "/admin/clients?q=anna")


@pytest.fixture
def many(client: FlaskClient, database: Cursor) -> Iterator[None]:
    database.execute(COUNT_MANY)
    yield
    database.execute("DELETE FROM clients WHERE tag = 'crowd'")


def test_the_page_counts_hits_and_keeps_the_search(app: Flask, many: None) -> None:
    viewer = Signed(app, "viewer")
    html = page(viewer, "/admin/clients?q=5550100")
    assert "1 found" in html
    assert "+7 812 555-01-00" in html
    assert "Пётр-Павел" in html
    html = page(viewer, "/admin/clients?q=crowd")
    assert "More than 10,000 found" in html
    assert "q=crowd" in html.split('class="pager"')[1]
    assert "clients.csv?q=crowd" in html
    assert "Nothing found" in page(viewer, "/admin/clients?q=nowhere")
    # Links of earlier versions.
    assert "1 found" in page(viewer, "/admin/clients?phone=8+812+555-01-00")


@pytest.mark.parametrize(("search", "index"), [("anna", "clients_words"), ("79500000077", "phone")])
def test_words_and_whole_phones_are_found_by_an_index(
    app: Flask, many: None, database: Cursor, search: str, index: str
) -> None:
    database.execute("VACUUM ANALYZE clients")
    with app.app_context():
        found = select(Client.id).where(*ClientSearch(search=search).conditions())
        statement = found.compile(api.db.db.engine, compile_kwargs={"literal_binds": True})
    database.execute("SET enable_seqscan = off")  # the table is small
    database.execute(f"EXPLAIN (FORMAT JSON) {str(statement).replace('%', '%%')}", ())
    row = database.fetchone()
    assert row is not None
    assert index in json.dumps(row[0])
    assert "Seq Scan" not in json.dumps(row[0])
