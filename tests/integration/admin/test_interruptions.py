"""A form refused for its session or token keeps its fields, for its own site only."""

import re

import pytest
from flask import Flask

from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_admin_app

FIELDS = {"text": 'Half a "text"', "tags": "vip"}


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


def test_the_page_of_an_ended_session_keeps_the_form_without_scripts(app: Flask) -> None:
    visitor = app.test_client()
    own = {"Origin": PUBLIC, "Accept": "text/html"}
    response = visitor.post("/admin/mailings/new", base_url=PUBLIC, data=FIELDS, headers=own)
    assert response.status_code == 401
    assert "/admin/sign-in?next=/admin/mailings/new" in response.text
    assert 'name="text" value="Half a &#34;text&#34;"' in response.text


def test_a_stale_token_is_renewed_by_the_page_that_refuses_it(app: Flask) -> None:
    operator = Signed(app, "operator")
    stale, own = {"csrf_token": "stale"}, {"Origin": PUBLIC, "Accept": "text/html"}
    refused = operator.client.post(
        "/admin/mailings/preview", base_url=PUBLIC, data=FIELDS | stale, headers=own
    )
    assert refused.status_code == 400
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', refused.text))
    assert fields["tags"] == "vip"
    again = operator.client.post(
        "/admin/mailings/preview", base_url=PUBLIC, data=fields, headers=own
    )
    assert again.status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", None])
def test_a_form_of_another_site_is_not_kept(app: Flask, origin: str | None) -> None:
    headers = {"Accept": "text/html"} | ({"Origin": origin} if origin else {})
    for client in (app.test_client(), Signed(app, "operator").client):
        response = client.post("/admin/mailings/new", base_url=PUBLIC, data=FIELDS, headers=headers)
        assert response.status_code in (400, 401)
        assert 'name="tags"' not in response.text


def test_scripts_are_told_that_the_session_has_ended(app: Flask) -> None:
    headers = {"Accept": "*/*", "X-Fragment": "yes"}
    response = app.test_client().get("/admin/mailings", base_url=PUBLIC, headers=headers)
    assert response.status_code == 401
