"""The form of a mailing: recipients are chosen from lists with counts, or typed."""

import json
import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from api.mailings.recipient_choices import EXTENSION, ChoiceCache
from tests.integration.admin.test_forms import page, submit
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import make_admin_app, make_client

CLIENTS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("79160000001", "vip", "Europe/Moscow", {"Город": "Омск"}),
    ("79160000002", "vip", "Asia/Omsk", {"Город": "Омск"}),
    ("79260000003", "new", "Europe/Moscow", {"Город": "Пермь"}),
    ("79260000004", "one, two", "Europe/Moscow", {}),
)


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    app = make_admin_app(database_url, redis_url)
    for phone, tag, zone, attributes in CLIENTS:
        body = {"phone": phone, "tag": tag, "timezone": zone, "attributes": attributes}
        assert make_client(app).post("/api/v1/clients", json=body).status_code == 201
    return app


@pytest.fixture
def operator(app: Flask) -> Signed:
    return Signed(app, "operator")


def boxes(html: str, name: str) -> dict[str, tuple[str, str, bool]]:
    """Return the label, the count and whether it is ticked, of each value in a list."""
    found = re.findall(
        rf'name="{name}" id="[^"]*" value="([^"]*)"( checked)?><label[^>]*>'
        r"<span>([^<]*)</span> <span[^>]*>([^<]*)<",
        html,
    )
    return {unescape(v): (label, count, bool(checked)) for v, checked, label, count in found}


def typed(html: str, name: str) -> str:
    found = re.search(rf'id="{name}" name="{name}"[^>]* value="([^"]*)"', html)
    assert found is not None
    return unescape(found[1])


def fields(**filled: Any) -> dict[str, Any]:
    return {"text": "Hi", "starts": "now", "end_at": "2030-12-02T09:00", "zone": "UTC", **filled}


def test_lists_show_the_values_that_clients_have(operator: Signed) -> None:
    html = page(operator, "/admin/mailings/new", "ru")
    # A tag with a comma could not be told from two.
    assert boxes(html, "tags") == {"vip": ("vip", "2", False), "new": ("new", "1", False)}
    assert boxes(html, "operator_codes")["916"] == ("916", "2", False)
    assert boxes(html, "timezones")["Europe/Moscow"] == ("Москва, UTC+3", "3", False)
    assert boxes(html, "timezones")["Asia/Omsk"] == ("Омск, UTC+6", "1", False)
    assert "<option>Город</option>" in html
    values = page(operator, "/admin/mailings/attribute-values?name=Город")
    assert json.loads(values) == {"values": ["Омск", "Пермь"]}


def test_ticked_and_typed_values_are_one_filter(operator: Signed) -> None:
    given = fields(tags=["vip", "future, vip"], timezones=["", "Asia/Omsk"])
    given |= {"attributes": "a = b", "attribute_name": "Город", "attribute_value": "Омск"}
    review = submit(operator, "/admin/mailings/new", given).text
    assert "future, vip" in unescape(review)
    html = submit(operator, "/admin/mailings/new", {**given, "back": "1"}).text
    assert boxes(html, "tags")["vip"][2]
    assert not boxes(html, "tags")["new"][2]
    assert typed(html, "tags") == "future"
    assert boxes(html, "timezones")["Asia/Omsk"][2]
    assert typed(html, "timezones") == ""
    assert "a = b\nГород = Омск</textarea>" in unescape(html)


def test_saving_an_unchanged_form_changes_nothing(app: Flask, operator: Signed) -> None:
    client = make_client(app)
    body = {"text": "Hi", "start_at": "2030-12-01T09:00:00Z", "end_at": "2030-12-02T09:00:00Z"}
    chosen = {"tags": ["vip", "new", "later"], "timezones": ["Europe/Moscow", "Asia/Omsk"]}
    created = client.post("/api/v1/mailings", json={**body, "filter": chosen}).get_json()
    path = f"/admin/mailings/{created['id']}/edit"
    html = page(operator, path)
    assert typed(html, "tags") == "later"
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))
    given = hidden | {"text": "Hi", "start_at": "2030-12-01T09:00", "end_at": "2030-12-02T09:00"}
    given.pop("csrf_token")
    form: dict[str, Any] = {
        **{name: unescape(value) for name, value in given.items()},
        "tags": ["later", "vip", "new"],
        "timezones": ["", "Asia/Omsk", "Europe/Moscow"],
    }
    assert submit(operator, path, form).status_code == 303
    unchanged = client.get(f"/api/v1/mailings/{created['id']}")
    assert unchanged.get_json()["filter"]["tags"] == chosen["tags"]
    assert unchanged.headers["ETag"] == '"1"'


def test_a_directory_that_takes_too_long_to_count_has_no_lists(
    app: Flask, operator: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(app.extensions, EXTENSION, ChoiceCache())
    monkeypatch.setattr("api.db.SEARCH_SECONDS", 0.05)
    slow = text("SELECT CAST(:most AS text), CAST(pg_sleep(9) AS text), 1")
    monkeypatch.setattr("api.mailings.recipient_choices.COUNTED", slow)
    html = page(operator, "/admin/mailings/new")
    assert boxes(html, "tags") == {}
    assert typed(html, "tags") == ""
