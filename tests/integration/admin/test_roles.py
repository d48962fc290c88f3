"""Every route of the admin UI requires its role; the tables must list all routes."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg2.extensions import cursor as Cursor
from werkzeug.routing import Rule

from api.admin.views.mailings import ACTIONS
from tests.integration.conftest import ADMIN_URL, mailing_body, make_admin_app, make_client
from tests.support.admin_sessions import sign_in_as

PUBLIC = ADMIN_URL
CHANGING = {"POST", "PUT", "PATCH", "DELETE"}
RANKS = ("viewer", "operator", "admin")

# The lowest role that may use each changing route; None: no sign-in required.
LEAST: dict[str, str | None] = {
    "signin.start_sign_in": None,
    "signin.sign_out": None,
    "mailing_editor.review_mailing": "operator",
    "mailing_editor.preview_mailing": "operator",
    "mailing_editor.send_test": "operator",
    "mailing_editor.update_mailing": "operator",
    "mailings.perform_action": "operator",
    "clients.create_client": "operator",
    "clients.update_client": "operator",
    "clients.delete_client": "operator",
    "imports.upload_file": "operator",
    "imports.submit_mapping": "operator",
    "imports.undo_import": "operator",
    "clients.opt_out": "operator",
    "clients.opt_in": "operator",
    "opt_outs.add_opt_outs": "operator",
    "opt_outs.remove_opt_out": "operator",
    "signin.end_by_provider": None,
    "sessions.end_session": "admin",
    "tokens.create_token": "admin",
    "tokens.revoke_token": "admin",
    "reports.send_now": "admin",
    "policy.change_policy": "admin",
    "policy.stop_sending": "admin",
    "policy.resume_sending": "admin",
}
# Pages that require more than the role viewer.
RESTRICTED_PAGES: dict[str, str] = {
    **dict.fromkeys(
        (
            "mailing_editor.new_mailing",
            "mailing_editor.edit_mailing",
            "clients.new_client",
            "clients.edit_client",
        ),
        "operator",
    ),
    **dict.fromkeys(
        ("clients.confirm_delete", "imports.choose_file", "mailing_editor.list_values"), "operator"
    ),
    "imports.map_columns": "operator",
    **dict.fromkeys(
        (
            "tokens.list_tokens",
            "sessions.list_sessions",
            "reports.list_reports",
            "reports.preview_report",
            "audit.list_entries",
            "policy.confirm_stop",
            "policy.confirm_resume",
        ),
        "admin",
    ),
}
OPEN = {
    "signin.show_sign_in",
    "signin.finish_sign_in",
    "preferences.set_language",
    "preferences.set_theme",
}
FILES = {"static", "bootstrap.static"}


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def given(app: Flask) -> dict[str, Any]:
    """What stands for the variables of routes: things that are there."""
    api = make_client(app)
    client = api.post(
        "/api/v1/clients", json={"phone": "79160000001", "timezone": "Europe/Moscow"}
    ).get_json()
    token = api.post("/api/v1/tokens", json={"name": "kept", "scope": "read"}).get_json()
    api.post("/api/v1/opt-outs", json={"phones": ["79160000002"]})
    return {
        "mailing_id": api.post("/api/v1/mailings", json=mailing_body()).get_json()["id"],
        "client_id": client["id"],
        "token_id": token["id"],
        "import_id": 1,
        "session_id": 999,
        "file_id": 999,
        "phone": 79160000002,
        "day": "2026-01-02",
        "language": "en",
        "theme": "dark",
        "_rest": "nowhere",
        "filename": "admin.css",
    }


def name(rule: Rule) -> str:
    return str(rule.endpoint).removeprefix("admin.")


def rules(app: Flask, changing: bool) -> Iterator[Rule]:
    for rule in app.url_map.iter_rules():
        if str(rule.endpoint).startswith("admin.") and bool(CHANGING & rule.methods) is changing:  # type: ignore[operator]
            yield rule


def paths(app: Flask, rule: Rule, given: dict[str, Any]) -> list[str]:
    """Return the addresses of a route, one for each of its actions."""
    actions = list(ACTIONS) if "action" in rule.arguments else [""]
    with app.test_request_context(base_url=PUBLIC):
        adapter = app.url_map.bind("127.0.0.1:5998")
        values = {each: given[each] for each in rule.arguments if each != "action"}
        return [
            adapter.build(rule.endpoint, values | ({"action": each} if each else {}), "POST"
                          if CHANGING & rule.methods else "GET")  # type: ignore[operator]
            for each in actions
        ]  # fmt: skip


class Signed:
    """A person signed in with a role, and with a valid CSRF token."""

    def __init__(self, app: Flask, role: str) -> None:
        self.client: FlaskClient = app.test_client()
        self.name = sign_in_as(app, self.client, role, PUBLIC)
        page = self.client.get("/admin/mailings", base_url=PUBLIC)
        assert page.status_code == 200
        found = re.search(r'csrf-token" content="([^"]+)"', page.text)
        assert found
        self.token = found[1]

    def get(self, path: str) -> int:
        return self.client.get(path, base_url=PUBLIC, headers={"Accept": "text/html"}).status_code

    def post(self, path: str, token: str | None = None) -> int:
        return self.client.post(
            path, base_url=PUBLIC, data={"csrf_token": self.token if token is None else token}
        ).status_code


def test_every_changing_route_is_in_the_table(app: Flask) -> None:
    assert {name(rule) for rule in rules(app, True)} == set(LEAST), (
        "say in LEAST which role the new route is for"
    )


@pytest.mark.parametrize("role", RANKS)
def test_roles_cannot_use_routes_beyond_their_scope(
    app: Flask, given: dict[str, Any], database: Cursor, role: str
) -> None:
    """By direct POST, with a valid session and a valid token."""
    signed = Signed(app, role)
    for rule in rules(app, True):
        least = LEAST[name(rule)]
        if least is None or RANKS.index(role) >= RANKS.index(least):
            continue
        for path in paths(app, rule, given):
            assert signed.post(path) == 403, (role, path)
    database.execute(
        "SELECT count(*) FROM audit_log WHERE actor LIKE 'person:%' AND action <> 'signed_in'"
    )
    assert database.fetchone() == (0,), "something was done all the same"


def test_changes_require_a_session_and_a_csrf_token(
    app: Flask, given: dict[str, Any], database: Cursor
) -> None:
    admin, visitor = Signed(app, "admin"), app.test_client()
    for rule in rules(app, True):
        for path in paths(app, rule, given):
            assert admin.post(path, token="") == 400, path
            assert admin.post(path, token="forged") == 400, path
            status = visitor.post(path, base_url=PUBLIC).status_code
            assert status == (401 if LEAST[name(rule)] else 400), path
    database.execute(
        "SELECT count(*) FROM audit_log WHERE actor LIKE 'person:%' AND action <> 'signed_in'"
    )
    assert database.fetchone() == (0,), "something was done all the same"


def test_pages_require_sign_in_and_some_require_a_role(app: Flask, given: dict[str, Any]) -> None:
    signed = {role: Signed(app, role) for role in RANKS}
    visitor = app.test_client()
    for rule in rules(app, False):
        if name(rule) in OPEN | FILES:
            continue
        for path in paths(app, rule, given):
            answer = visitor.get(path, base_url=PUBLIC, headers={"Accept": "text/html"})
            if name(rule) == "show_not_found":
                assert answer.status_code == 404, path
                continue
            assert answer.status_code == 302, path
            assert answer.headers["Location"].startswith("/admin/sign-in?"), path
            least = RANKS.index(RESTRICTED_PAGES.get(name(rule), "viewer"))
            for rank, role in enumerate(RANKS):
                assert (signed[role].get(path) == 403) is (rank < least), (role, path)


@pytest.mark.parametrize("role", ["operator", "admin"])
def test_roles_can_use_the_routes_of_their_scope(
    app: Flask, given: dict[str, Any], role: str
) -> None:
    """Last, as it changes things: an empty form may be refused, but not for the role."""
    signed = Signed(app, role)
    for rule in rules(app, True):
        least = LEAST[name(rule)]
        if least is None or RANKS.index(role) < RANKS.index(least):
            continue
        for path in paths(app, rule, given):
            assert signed.post(path) not in (400, 401, 403, 500), (role, path)
    if role == "admin":
        assert signed.post("/admin/policy/resume") == 303
