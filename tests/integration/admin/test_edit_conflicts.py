"""Two people edit one client or mailing: nothing is overwritten unseen, nothing is lost."""

import re
from html import unescape
from typing import Any

import pytest
from flask import Flask
from psycopg2.extensions import cursor as Cursor

from tests.integration.admin.test_forms import page, submit
from tests.integration.admin.test_roles import Signed
from tests.integration.conftest import ahead, make_admin_app, make_client


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture
def operator(app: Flask) -> Signed:
    return Signed(app, "operator")


def form_of(html: str) -> dict[str, str]:
    """Return the fields of the page's form that keeps drafts, as a browser would send them."""
    form = html[html.index("data-draft") :]
    form = form[: form.index("</form>")]
    fields = {}
    for tag, body in re.findall(r"<(input [^>]*|textarea [^>]*)>(?:([^<]*)</textarea>)?", form):
        name = re.search(r'name="([^"]+)"', tag)
        choice = 'type="checkbox"' in tag or 'type="radio"' in tag
        if name and (not choice or " checked" in tag):
            shown = re.search(r'value="([^"]*)"', tag)
            fields[name[1]] = unescape(shown[1] if shown else body)
    del fields["csrf_token"]
    return fields


@pytest.fixture
def client_id(app: Flask) -> int:
    body = {"phone": "79161110001", "tag": "old", "timezone": "Europe/Moscow",
            "attributes": {"name": "Anna"}}  # fmt: skip
    found = make_client(app).put("/api/v1/clients/by-phone/79161110001", json=body).get_json()
    return int(found["id"])


@pytest.fixture
def mailing_id(app: Flask) -> int:
    body = {"text": "First text", "start_at": ahead(hours=1), "end_at": ahead(hours=2)}
    return int(make_client(app).post("/api/v1/mailings", json=body).get_json()["id"])


def read_client(app: Flask, client_id: int) -> dict[str, Any]:
    found: dict[str, Any] = make_client(app).get(f"/api/v1/clients/{client_id}").get_json()
    return found


def test_the_second_of_two_people_sees_both_versions_of_a_client(
    app: Flask, operator: Signed, client_id: int
) -> None:
    path = f"/admin/clients/{client_id}/edit"
    first, second = form_of(page(operator, path)), form_of(page(operator, path))
    theirs = first | {"tag": "theirs", "attributes": "name = Olga"}
    assert submit(Signed(app, "admin"), path, theirs).status_code == 303
    mine = {"tag": "mine", "timezone": "Asia/Omsk"}
    conflict = submit(operator, path, second | mine)
    assert conflict.status_code == 409
    assert read_client(app, client_id)["tag"] == "theirs"
    shown = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", conflict.text))
    for text in ("mine", "theirs", "name = Olga", "name = Anna", "Asia/Omsk", "Europe/Moscow"):
        assert text in shown
    assert re.search(r"Person , .*: Tag, Attributes", shown), "who changed what when"
    # Both changed the tag: it must be picked. The zone is mine alone, the attributes theirs alone.
    fields = form_of(conflict.text)
    picks = {name: value for name, value in fields.items() if name.startswith("pick-")}
    assert picks == {"pick-timezone": "mine", "pick-attributes": "theirs"}
    again = submit(operator, path, {**fields, "resolve": "merge"})
    assert again.status_code == 409
    assert "Choose one of both" in again.text
    chosen = {**form_of(again.text), "pick-tag": "mine", "resolve": "merge"}
    assert submit(operator, path, chosen).status_code == 303
    merged = read_client(app, client_id)
    assert (merged["tag"], merged["timezone"]) == ("mine", "Asia/Omsk")
    assert merged["attributes"] == {"name": "Olga"}


def test_a_third_change_during_the_choice_is_noticed(
    app: Flask, operator: Signed, client_id: int
) -> None:
    path, api = f"/admin/clients/{client_id}/edit", f"/api/v1/clients/{client_id}"
    mine = form_of(page(operator, path)) | {"tag": "mine"}
    assert make_client(app).patch(api, json={"tag": "second"}).status_code == 200
    conflict = submit(operator, path, mine)
    assert make_client(app).patch(api, json={"tag": "third"}).status_code == 200
    chosen = {**form_of(conflict.text), "resolve": "mine"}
    conflict = submit(operator, path, chosen)
    assert conflict.status_code == 409
    assert "third" in conflict.text
    chosen = {**form_of(conflict.text), "resolve": "mine"}
    assert submit(operator, path, chosen).status_code == 303
    assert read_client(app, client_id)["tag"] == "mine"


def test_a_form_without_a_version_overwrites_nothing(
    app: Flask, operator: Signed, client_id: int
) -> None:
    path = f"/admin/clients/{client_id}/edit"
    fields = form_of(page(operator, path)) | {"tag": "mine"}
    for broken in ({"version": ""}, {"version": "9" * 30}, {"version": "0", "basis": "[1]"}):
        assert submit(operator, path, fields | broken).status_code == 409
    assert read_client(app, client_id)["tag"] == "old"


def test_both_texts_of_a_mailing_can_be_merged_by_hand(
    app: Flask, operator: Signed, mailing_id: int
) -> None:
    path, api = f"/admin/mailings/{mailing_id}/edit", f"/api/v1/mailings/{mailing_id}"
    mine = form_of(page(operator, path)) | {"text": "My text", "name": "Sale"}
    window = {"from": "10:00", "to": "12:00"}
    changed = make_client(app).patch(api, json={"text": "Their text", "window": window})
    assert changed.status_code == 200
    conflict = submit(operator, path, mine)
    assert conflict.status_code == 409
    assert all(text in conflict.text for text in ("My text", "Their text", "10:00–12:00"))
    fields = {**form_of(conflict.text), "pick-text": "theirs", "resolve": "edit"}
    editor = submit(operator, path, fields)
    assert editor.status_code == 200
    merged = form_of(editor.text)
    assert (merged["text"], merged["name"]) == ("Their text", "Sale")
    saved = submit(operator, path, merged | {"text": "Their text and mine"})
    assert saved.status_code == 303
    found = make_client(app).get(api).get_json()
    assert (found["text"], found["name"]) == ("Their text and mine", "Sale")
    assert found["window"] == window


def test_a_mailing_that_starts_or_ends_meanwhile_loses_nothing(
    app: Flask, operator: Signed, mailing_id: int, database: Cursor
) -> None:
    path, api = f"/admin/mailings/{mailing_id}/edit", f"/api/v1/mailings/{mailing_id}"
    mine = form_of(page(operator, path)) | {"text": "My text", "tags": "vip"}
    # As a launch does.
    started = "UPDATE mailings SET status = 'running', started_at = now() WHERE id = %s"
    database.execute(started, [mailing_id])
    rejected = submit(operator, path, mine)
    assert rejected.status_code == 409
    assert "has started while you were editing" in rejected.text
    assert make_client(app).get(api).get_json()["text"] == "First text"
    again = form_of(rejected.text)
    assert again["text"] == "My text"
    assert "tags" not in again
    assert submit(operator, path, again).status_code == 303
    assert make_client(app).get(api).get_json()["text"] == "My text"
    mine = form_of(page(operator, path)) | {"text": "Too late"}
    assert make_client(app).post(f"{api}/cancel").status_code == 200
    ended = submit(operator, path, mine)
    assert ended.status_code == 409
    assert "Create a new mailing from it" in ended.text
    assert "Too late" in ended.text
