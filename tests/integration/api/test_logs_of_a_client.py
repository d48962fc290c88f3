"""All operations on one client, mailing or message are found in the log by its id.

Each route is called, or is listed with the reason why it is not about one of them.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.cli.log_search import LogQuery, LogSearch
from tests.integration.admin.test_roles import PUBLIC, Signed
from tests.integration.conftest import make_admin_app, make_client
from tests.support.fleet import Fleet

# Routes about all clients or mailings, or about neither. A prefix of the rule, and why.
NOT_ABOUT_ONE = {
    "/api/v1/audit": "the audit log",
    "/api/v1/clients/import": "client.imported names the clients: see test_imports",
    "/api/v1/imports": "an import; client.imported names the clients",
    "/api/v1/mailings/preview": "a mailing that does not exist yet",
    "/api/v1/statistics": "all mailings",
    "/api/v1/tokens": "tokens",
    "/api/v1/opt-outs.csv": "all opt-outs",
    "/admin/": "see test_pages_are_found",
    "/apidoc": "documentation",
    "/docs": "documentation",
    "/healthz": "a probe",
    "/metrics": "a probe",
    "/readyz": "a probe",
}


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def client(app: Flask) -> FlaskClient:
    return make_client(app)


class Story:
    """One client with a message, and the requests that are about them."""

    def __init__(self, fleet: Fleet, capsys: pytest.CaptureFixture[str]):
        self.capsys = capsys
        (self.client,) = fleet.add_clients(1, tag="story")
        self.phone = fleet.query_value("SELECT phone FROM clients WHERE id = %s", self.client)
        self.mailing = fleet.add_mailing(tags=["story"])
        fleet.launch_mailing(self.mailing)
        self.message = fleet.query_value(
            "SELECT id FROM messages WHERE client_id = %s", self.client
        )
        self.capsys.readouterr()

    def requests_found(self, request: Callable[[], Any], **query: Any) -> list[str]:
        """Make a request; return the routes of the requests that the log search finds."""
        self.capsys.readouterr()
        answer = request()
        assert answer.status_code != 500, answer.text  # no worker takes a test send: 503
        search = LogSearch(LogQuery(**query))
        search.read_lines(self.capsys.readouterr().out.splitlines())
        return [line["route"] for line in search.lines if line["event"] == "api.request"]


@pytest.fixture
def story(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> Story:
    return Story(fleet, capsys)


def test_every_route_with_an_id_is_found(app: Flask, client: FlaskClient, story: Story) -> None:
    values = {
        "client_id": story.client,
        "mailing_id": story.mailing,
        "message_id": story.message,
        "phone": story.phone,
    }
    missing = []
    for rule in app.url_map.iter_rules():
        named = values.keys() & rule.arguments
        if not named or rule.rule.startswith("/admin"):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: str(values[match[1]]), rule.rule)
        for method in sorted((rule.methods or set()) & {"GET", "POST", "PUT", "PATCH"}):
            for name in named:
                kind = "client" if name == "phone" else name.removesuffix("_id")
                found = story.requests_found(
                    lambda method=method, path=path: client.open(path, method=method),  # type: ignore[misc]
                    **{kind: values["client_id" if name == "phone" else name]},
                )
                if rule.rule not in found:
                    missing.append(f"{method} {rule.rule} by {kind}")
    assert not missing


def test_requests_that_name_a_client_by_phone_are_found(client: FlaskClient, story: Story) -> None:
    phone, zone = str(story.phone), "Europe/Moscow"
    csv = {"data": f"phone\n{phone}\n", "headers": {"Content-Type": "text/csv"}}
    requests: dict[str, Callable[[], Any]] = {
        "/api/v1/clients": lambda: client.get("/api/v1/clients", query_string={"phone": phone}),
        "/api/v1/clients.csv": lambda: client.get(f"/api/v1/clients.csv?phone={phone}"),
        "/api/v1/opt-outs": lambda: client.post("/api/v1/opt-outs", json={"phones": [phone]}),
        "/api/v1/opt-outs ": lambda: client.get(f"/api/v1/opt-outs?phone={phone}"),
        "/api/v1/opt-outs/<phone:phone>": lambda: client.delete(f"/api/v1/opt-outs/{phone}"),
        "/api/v1/mailings/test-send": lambda: client.post(
            "/api/v1/mailings/test-send", json={"text": "Hello", "phones": [phone]}
        ),
        "/api/v1/clients  ": lambda: client.post(
            "/api/v1/clients", json={"phone": phone, "timezone": zone}
        ),
        f"/api/v1/messages/{story.message}": lambda: client.get(
            f"/api/v1/messages/{story.message}"
        ),
    }
    missing = [
        route
        for route, request in requests.items()
        if not story.requests_found(request, client=story.client)
    ]
    assert not missing
    story.capsys.readouterr()
    assert client.post("/api/v1/opt-outs/import", **csv).status_code == 200
    search = LogSearch(LogQuery(client=story.client))
    search.read_lines(story.capsys.readouterr().out.splitlines())
    assert "client.opted_out" in [line["event"] for line in search.lines]


def test_message_look_up_is_found_by_mailing_and_client(client: FlaskClient, story: Story) -> None:
    path = f"/api/v1/messages/{story.message}"
    for kind in ("client", "mailing", "message"):
        found = story.requests_found(lambda: client.get(path), **{kind: getattr(story, kind)})
        assert found == ["/api/v1/messages/<id:message_id>"], kind


def test_pages_are_found(app: Flask, story: Story) -> None:
    signed = Signed(app, "admin")

    def get(path: str) -> Callable[[], Any]:
        return lambda: signed.client.get(path, base_url=PUBLIC)

    def post(path: str, **fields: str) -> Callable[[], Any]:
        data = {"csrf_token": signed.token, **fields}
        return lambda: signed.client.post(path, base_url=PUBLIC, data=data)

    phone, mailing = str(story.phone), f"/admin/mailings/{story.mailing}"
    pages = {
        "client": get(f"/admin/clients/{story.client}"),
        "edit": get(f"/admin/clients/{story.client}/edit"),
        "delete": get(f"/admin/clients/{story.client}/delete"),
        "search": get(f"/admin/clients?phone={phone}"),
        "export": get(f"/admin/clients.csv?phone={phone}"),
        "opt out": post("/admin/opt-outs", phones=phone, source="page"),
        "opt-outs": get(f"/admin/opt-outs?phone={phone}"),
        "removal": post(f"/admin/opt-outs/{phone}/remove"),
        "recipients": get(f"{mailing}?phone={phone}"),
    }
    missing = [
        name
        for name, request in pages.items()
        if not story.requests_found(request, client=story.client)
    ]
    assert not missing
    for path in (mailing, f"{mailing}/edit", f"{mailing}/pause", f"{mailing}/messages.csv"):
        assert story.requests_found(get(path), mailing=story.mailing), path


def test_every_other_route_is_known_to_be_about_none(app: Flask) -> None:
    by_phone = {"/api/v1/clients", "/api/v1/clients.csv", "/api/v1/opt-outs"}
    by_phone |= {"/api/v1/mailings/test-send", "/api/v1/opt-outs/import", "/api/v1/mailings"}
    unknown = [
        rule.rule
        for rule in app.url_map.iter_rules()
        if not rule.arguments & {"client_id", "mailing_id", "message_id", "phone"}
        and rule.rule not in by_phone | {"/"}
        and not rule.rule.startswith(tuple(NOT_ABOUT_ONE))
    ]
    assert not unknown, "call them in a test above, or say why they are about no client"
