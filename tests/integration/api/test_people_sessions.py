"""Sessions of the admin UI over the REST API: administrators list and end them."""

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.people.schemas import SessionPage
from tests.integration.api.test_problems import problem
from tests.integration.conftest import ADMIN_URL, make_admin_app, make_client
from tests.support.admin_sessions import ISSUER, sign_in_as

SESSIONS = "/api/v1/sessions"
SignIn = Callable[..., FlaskClient]


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return make_client(app)


@pytest.fixture
def sign_in(app: Flask) -> SignIn:
    """Sign in a person with a role; return their browser."""

    def sign_in(role: str, subject: str) -> FlaskClient:
        browser = app.test_client()
        sign_in_as(app, browser, role, ADMIN_URL, subject)
        return browser

    return sign_in


def open_sessions(client: FlaskClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(SESSIONS, query_string=query).get_json()
    SessionPage.model_validate(answer)
    items: list[dict[str, Any]] = answer["items"]
    return items


def is_signed_in(browser: FlaskClient) -> bool:
    return browser.get("/admin/mailings", base_url=ADMIN_URL).status_code == 200


def test_an_administrator_lists_and_ends_sessions(client: FlaskClient, sign_in: SignIn) -> None:
    browsers = [sign_in("viewer", "Ann"), sign_in("viewer", "Ann"), sign_in("operator", "Ann")]
    other = sign_in("operator", "Bob")
    metrics = client.get("/metrics").text
    assert 'notification_admin_sessions{role="viewer"} 2.0' in metrics
    assert 'notification_admin_sessions{role="operator"} 2.0' in metrics
    assert 'notification_admin_sessions{role="admin"} 0.0' in metrics
    listed = open_sessions(client)
    assert [each["person"]["subject"] for each in listed] == ["Ann", "Ann", "Ann", "Bob"]
    assert listed[3]["person"] == {
        "issuer": ISSUER,
        "subject": "Bob",
        "name": "Person",
        "email": "operator@example.com",
        "email_verified": True,
    }
    assert [each["role"] for each in listed] == ["viewer", "viewer", "operator", "operator"]
    ids = [each["id"] for each in listed]
    page = client.get(f"{SESSIONS}?order=desc&limit=2").get_json()
    assert [each["id"] for each in page["items"]] == ids[:1:-1]
    rest = open_sessions(client, order="desc", cursor=page["next_cursor"])
    assert [each["id"] for each in rest] == ids[1::-1]

    assert client.delete(f"{SESSIONS}/{ids[0]}").status_code == 204
    assert [is_signed_in(each) for each in (*browsers, other)] == [False, True, True, True]
    problem(client.delete(f"{SESSIONS}/{ids[0]}"), 404)
    assert client.delete(f"{SESSIONS}/{ids[1]}?of_person=true").status_code == 204
    assert [is_signed_in(each) for each in (*browsers, other)] == [False, False, False, True]
    problem(client.delete(f"{SESSIONS}/{ids[1]}?of_person=true"), 404)
    assert [each["id"] for each in open_sessions(client)] == [ids[3]]
    audited = client.get("/api/v1/audit?entity=session&action=ended").get_json()["items"]
    assert {each["entity_id"] for each in audited} == set(ids[:3])
    assert audited[0]["actor"] == "bootstrap"
    assert audited[0]["changes"] == {"why": "admin", "person": f"person:{ISSUER}#Ann"}
    problem(client.delete(f"{SESSIONS}/{ids[3]}?of_person=maybe"), 422)


@pytest.mark.parametrize("scope", ["read", "write"])
def test_other_tokens_see_and_end_no_sessions(client: FlaskClient, app: Flask, scope: str) -> None:
    body = {"name": f"sessions {scope}", "scope": scope}
    token = client.post("/api/v1/tokens", json=body).get_json()["token"]
    stranger = app.test_client()
    headers = {"Authorization": f"Bearer {token}"}
    problem(stranger.get(SESSIONS, headers=headers), 403)
    problem(stranger.delete(f"{SESSIONS}/1", headers=headers), 403)
