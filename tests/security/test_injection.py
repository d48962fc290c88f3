"""Texts that try to be something else: SQL, a template, HTML, a header."""

import re
import time
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from shared.domain.templates import compile_stored_template
from tests.integration.conftest import ADMIN_URL, mailing_body, make_admin_app, make_client, value
from tests.support.admin_sessions import sign_in_as

SLOW = "pg_sleep(5)"
SQL_TEXTS = [
    "' OR '1'='1",
    "'; DROP TABLE clients; --",
    f"' || {SLOW} || '",
    f"1); SELECT {SLOW}; --",
    f"(SELECT {SLOW})::text",
    "%' OR tag LIKE '%",
    "%(tag)s",
    ":tag",
    "\\'; SELECT 1; --",
    "$$; SELECT 1; $$",
    "{0}",
    "{waiting}",
    "\u02bc OR 1=1",
]
TEMPLATE_TEXTS = [
    "{{ 7 * 191 }}",
    "{% print(7 * 191) %}",
    "${7 * 191}",
    "#{7 * 191}",
    "<%= 7 * 191 %>",
    "{{ config }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ url_for.__globals__ }}",
    "%(name)s %(7*191)s",
]
RESULTS = ("1337", "SECRET_KEY", "__mro__&#39;", "mappingproxy", "<class")
HTML_TEXTS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    "</title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{% raw %}<script>alert(1)</script>",
]


class ActiveContent(HTMLParser):
    """Finds what a browser would execute in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_script = tag == "script"
        for name, text in attrs:
            is_code = (text or "").strip().lower().startswith("javascript:")
            if name.startswith("on") or (is_code and name in ("href", "src", "action")):
                self.found.append(f"{tag} {name}={text}")

    def handle_data(self, data: str) -> None:
        if self.in_script and data.strip():
            self.found.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.in_script = False


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    client = make_client(app)
    for number, tag in enumerate(("secret", "public")):
        body = {"phone": f"7916000000{number}", "timezone": "Europe/Moscow", "tag": tag}
        assert client.post("/api/v1/clients", json=body).status_code == 201
    return client


@pytest.fixture(scope="module")
def admin(app: Flask) -> FlaskClient:
    person = app.test_client()
    sign_in_as(app, person, "admin", ADMIN_URL)
    return person


def query_parameters(app: Flask) -> list[tuple[str, str]]:
    """Return each query parameter of each GET of the API, with an address."""
    with app.app_context():
        document = make_client(app).get("/apidoc/openapi.json").get_json()
    found = []
    for path, operations in document["paths"].items():
        for parameter in operations.get("get", {}).get("parameters", []):
            if parameter["in"] == "query":
                found.append((re.sub(r"{\w+}", "1", path), parameter["name"]))
    return found


@pytest.mark.parametrize("text", SQL_TEXTS)
def test_query_parameters_are_never_sql(app: Flask, client: FlaskClient, text: str) -> None:
    parameters = query_parameters(app)
    assert len(parameters) > 25
    for path, name in parameters:
        began = time.monotonic()
        answer = client.get(path, query_string={name: text}, buffered=True)
        assert answer.status_code < 500, (path, name)
        assert time.monotonic() - began < 4, (path, name)
        if name == "tag" and answer.status_code == 200 and answer.is_json:
            assert not answer.get_json().get("items"), (path, text)


@pytest.mark.parametrize("text", SQL_TEXTS)
def test_stored_texts_are_never_sql(
    client: FlaskClient, database: Cursor, text: str, admin: FlaskClient
) -> None:
    number = SQL_TEXTS.index(text)
    body: dict[str, Any] = {"phone": f"7916100{number:04}", "timezone": "Europe/Moscow"}
    body |= {"tag": text, "attributes": {"note": text}}
    made = client.post("/api/v1/clients", json=body)
    assert made.status_code == 201
    assert made.get_json()["tag"] == text
    chosen = {"tags": [text], "attributes": {"note": text}}
    mailing = client.post(
        "/api/v1/mailings", json={**mailing_body(), "name": text, "filter": chosen}
    )
    assert mailing.status_code == 201, mailing.text
    preview = client.post("/api/v1/mailings/preview", json={**mailing_body(), "filter": chosen})
    assert preview.status_code == 200
    found = client.get("/api/v1/clients", query_string={"tag": text}).get_json()["items"]
    assert [each["tag"] for each in found] == [text]
    for path in ("/admin/clients", "/admin/audit", "/admin/mailings"):
        query = dict.fromkeys(("tag", "q", "phone", "actor", "entity", "entity_id", "status"), text)
        page = admin.get(path, query_string=query, base_url=ADMIN_URL)
        assert page.status_code == 200, path
    database.execute("SELECT count(*) FROM clients WHERE deleted_at IS NULL AND tag = 'secret'")
    assert value(database) == 1


@pytest.mark.parametrize("text", [*TEMPLATE_TEXTS, *HTML_TEXTS])
def test_texts_of_people_are_neither_templates_nor_html_in_pages(
    client: FlaskClient, admin: FlaskClient, text: str
) -> None:
    number = [*TEMPLATE_TEXTS, *HTML_TEXTS].index(text)
    made = client.post(
        "/api/v1/clients",
        json={
            "phone": f"7916200{number:04}",
            "timezone": "Europe/Moscow",
            "tag": text,
            "attributes": {"note": text},
        },
    ).get_json()
    opted_out = client.post(
        "/api/v1/opt-outs", json={"phones": [f"7916300{number:04}"], "source": text}
    )
    assert opted_out.status_code < 300
    mailing = client.post(
        "/api/v1/mailings", json={**mailing_body(), "name": text, "filter": {"tags": [text]}}
    ).get_json()
    pages = ["/admin/", "/admin/clients", f"/admin/clients/{made['id']}", "/admin/opt-outs"]
    pages += ["/admin/mailings", f"/admin/mailings/{mailing['id']}", "/admin/audit"]
    pages += [f"/admin/mailings/{mailing['id']}/edit", f"/admin/clients/{made['id']}/edit"]
    for path in pages:
        page = admin.get(path, base_url=ADMIN_URL)
        assert page.status_code == 200, path
        for result in RESULTS:
            assert result not in page.text, (path, text, result)
        reader = ActiveContent()
        reader.feed(page.text)
        assert not reader.found, (path, text)


@pytest.mark.parametrize("text", TEMPLATE_TEXTS)
def test_a_message_never_evaluates_its_text(client: FlaskClient, text: str) -> None:
    answer = client.post("/api/v1/mailings", json={**mailing_body(), "text": text})
    if answer.status_code == 422:
        return  # not a placeholder
    assert answer.status_code == 201, answer.text
    rendered = compile_stored_template(text).render({"phone": "79160000000"})
    assert "1337" not in str(rendered)


@pytest.mark.parametrize(
    "text", ["{phone.__class__}", "{phone!r}", "{phone:>999999999}", "{0}", "{__import__}"]
)
def test_placeholders_are_names_only(client: FlaskClient, text: str) -> None:
    """Python's format language reaches attributes, and pads to any width."""
    answer = client.post("/api/v1/mailings", json={**mailing_body(), "text": text})
    if answer.status_code == 422:
        return
    assert answer.status_code == 201
    assert answer.get_json()["text"] == text
