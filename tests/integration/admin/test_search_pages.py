"""The pages that find mailings and entries of the audit log: search, order, hits and links."""

import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor

from tests.integration.admin.test_forms import page
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_admin_app, make_client
from tests.support.fleet import Fleet

NAMES = ("Spring sale", "Autumn sale", "Reminder")


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return make_client(app)


@pytest.fixture(scope="module")
def mailings(client: FlaskClient) -> dict[str, int]:
    """Mailings that start on 3, 2 and 1 December 2030."""
    ids = {}
    for days, name in enumerate(NAMES):
        body: dict[str, Any] = {
            "name": name,
            "text": f"50 % off_ {name.upper()}",
            "start_at": f"2030-12-0{3 - days}T09:00:00Z",
            "end_at": "2030-12-09T09:00:00Z",
        }
        ids[name] = client.post("/api/v1/mailings", json=body).get_json()["id"]
    client.post(f"/api/v1/mailings/{ids['Autumn sale']}/cancel")
    return ids


def listed(html: str) -> list[str]:
    return re.findall(r'class="name" href="[^"]*">([^<]*)<', html)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["Reminder", "Autumn sale", "Spring sale"]),
        ("q=SALE", ["Autumn sale", "Spring sale"]),
        ("q=sale+spring", ["Spring sale"]),
        ("q=50+%25+off_", ["Reminder", "Autumn sale", "Spring sale"]),
        ("q=o_f", []),
        ("status=cancelled&q=sale", ["Autumn sale"]),
        ("since=2030-12-02", ["Autumn sale", "Spring sale"]),
        ("until=2030-12-02", ["Reminder", "Autumn sale"]),
        ("since=2030-12-02&until=2030-12-02", ["Autumn sale"]),
        ("since=nonsense", ["Reminder", "Autumn sale", "Spring sale"]),
        ("sort=oldest", ["Spring sale", "Autumn sale", "Reminder"]),
        ("sort=latest", ["Spring sale", "Autumn sale", "Reminder"]),
        ("sort=earliest", ["Reminder", "Autumn sale", "Spring sale"]),
    ],
)
def test_mailings_are_found_and_ordered(
    app: Flask, mailings: dict[str, int], query: str, found: list[str]
) -> None:
    assert listed(page(Signed(app, "viewer"), f"/admin/mailings?{query}")) == found


def test_tabs_count_the_hits_and_keep_the_search(app: Flask, mailings: dict[str, int]) -> None:
    html = page(Signed(app, "viewer"), "/admin/mailings?q=sale&since=2030-12-01&sort=earliest")
    tabs = html[html.index('class="tabs"') : html.index("</nav>", html.index('class="tabs"'))]
    assert re.findall(r"<span>(\d+)</span>", tabs) == ["2", "1", "1"]
    for tab in re.findall(r'href="([^"]*)"', tabs):
        assert "q=sale" in tab
        assert "since=2030-12-01" in tab
        assert "sort=earliest" in tab
    assert "2 found" in html


@pytest.mark.parametrize("sort", ["newest", "earliest", "largest"])
def test_pages_of_each_order_continue_after_their_last_mailing(
    app: Flask, mailings: dict[str, int], monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    monkeypatch.setattr("api.admin.presenters.mailing_list.PAGE_ROWS", 1)
    viewer, found, address = Signed(app, "viewer"), [], f"/admin/mailings?sort={sort}"
    for _ in NAMES:
        html = page(viewer, address)
        found += listed(html)
        address = f"/admin/mailings?sort={sort}&before=" + "".join(
            re.findall(r"before=(\d+)", html)[-1:]
        )
    assert sorted(found) == sorted(NAMES)


def test_mailings_are_searched_over_the_api(client: FlaskClient, mailings: dict[str, int]) -> None:
    found = client.get("/api/v1/mailings?search=sale+SPRING").get_json()["items"]
    assert [each["id"] for each in found] == [mailings["Spring sale"]]
    assert client.get("/api/v1/mailings?search=100%25").get_json()["items"] == []


def audited(html: str) -> list[str]:
    return re.findall(r'href="/admin/(mailings/\d+|clients/\d+)"[^>]*>', html)


def test_the_audit_log_is_searched_by_person_and_text_and_links_to_its_objects(
    app: Flask, client: FlaskClient, mailings: dict[str, int], database: Cursor
) -> None:
    operator, admin = Signed(app, "operator"), Signed(app, "admin")
    body = {"phone": "79161230077", "timezone": "UTC"}
    created = client.post("/api/v1/clients", json=body).get_json()["id"]
    url = f"/admin/mailings/{mailings['Reminder']}/pause"
    operator.client.post(url, base_url=PUBLIC, data={"csrf_token": operator.token})
    spring = f"mailings/{mailings['Spring sale']}"
    assert audited(page(admin, "/admin/audit?q=spring+SALE&entity=mailing")) == [spring]
    assert f"clients/{created}" in audited(page(admin, "/admin/audit?entity=client"))
    database.execute("SELECT name, email FROM people WHERE subject = 'subject of operator'")
    name, email = database.fetchone() or ("", "")
    for part in (name[:6].upper(), email[2:]):
        found = audited(page(admin, f"/admin/audit?entity=mailing&actor={part}"))
        assert found == [f"mailings/{mailings['Reminder']}"], part
    assert audited(page(admin, "/admin/audit?since=2031-01-01")) == []
    found = client.get("/api/v1/audit?search=autumn&action=created").get_json()["items"]
    assert [each["entity_id"] for each in found] == [mailings["Autumn sale"]]


def test_the_tabs_of_recipients_keep_the_phone(app: Flask, module_fleet: Fleet) -> None:
    mailing_id = module_fleet.add_launched_mailing(2)
    phone = module_fleet.query_value("SELECT max(phone) FROM clients WHERE tag LIKE 'only %'")
    viewer, path = Signed(app, "viewer"), f"/admin/mailings/{mailing_id}?phone={phone}"
    recipients = page(viewer, path).split('id="recipients"')[1]
    tabs = re.findall(r'class="tab" href="([^"]*)"', recipients)
    assert tabs
    assert all(f"phone={phone}" in tab for tab in tabs)
    assert "/admin/clients/" in recipients
    failed = page(viewer, f"{path}&status=failed").split('id="recipients"')[1]
    assert "/admin/clients/" not in failed
    assert 'name="status" value="failed"' in failed
