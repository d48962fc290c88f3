"""All operations on one client, mailing or message are found in the log by its id.

Each route is called, or is listed with the reason why it is not about one of them.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api.cli.log_search import Line, LogQuery, LogSearch, parse_line
from tests.integration.admin.test_roles import PUBLIC, Signed, paths
from tests.integration.conftest import mailing_body, make_admin_app, make_client
from tests.support.fleet import Fleet, rejected
from tests.support.log_subjects import SUBJECTS, ids_in
from tests.unit.test_log_subjects import logged_events

# Routes about all clients or mailings, or about neither. A prefix of the rule, and why.
NOT_ABOUT_ONE = {
    "/api/v1/audit": "the audit log; see test_look_ups for that of one client",
    "/api/v1/clients/import": "client.imported names the clients: see test_imports",
    "/api/v1/imports": "an import; client.imported names the clients",
    "/api/v1/mailings/preview": "a mailing that does not exist yet",
    "/api/v1/statistics": "all mailings",
    "/api/v1/policy": "all mailings",
    "/api/v1/tokens": "tokens",
    "/api/v1/sessions": "sessions of the admin UI",
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


def story_values(story: Story) -> dict[str, int]:
    """Return what stands for the variables of routes."""
    return {
        "client_id": story.client,
        "mailing_id": story.mailing,
        "message_id": story.message,
        "phone": story.phone,
    }


def find_missing(app: Flask, client: FlaskClient, story: Story, methods: set[str]) -> list[str]:
    """Call the API's routes with ids; return those that the log search does not find."""
    values = story_values(story)
    missing = []
    # The last to be deleted is the client, by whom the others are found.
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: "client_id" in rule.arguments):
        named = values.keys() & rule.arguments
        if not named or rule.rule.startswith("/admin"):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda match: str(values[match[1]]), rule.rule)
        for method in sorted((rule.methods or set()) & methods):
            for name in named:
                kind = "client" if name == "phone" else name.removesuffix("_id")
                found = story.requests_found(
                    lambda method=method, path=path: client.open(path, method=method),  # type: ignore[misc]
                    **{kind: values["client_id" if name == "phone" else name]},
                )
                if rule.rule not in found:
                    missing.append(f"{method} {rule.rule} by {kind}")
    return missing


@pytest.mark.parametrize("methods", [{"GET", "POST", "PUT", "PATCH"}, {"DELETE"}])
def test_every_route_with_an_id_is_found(
    app: Flask, client: FlaskClient, story: Story, methods: set[str]
) -> None:
    assert not find_missing(app, client, story, methods)


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


def test_look_ups_are_found_by_mailing_and_client(client: FlaskClient, story: Story) -> None:
    path = f"/api/v1/messages/{story.message}"
    for kind in ("client", "mailing"):
        entry = {"entity": kind, "entity_id": getattr(story, kind)}
        audit = story.requests_found(
            lambda entry=entry: client.get("/api/v1/audit", query_string=entry),  # type: ignore[misc]
            **{kind: getattr(story, kind)},
        )
        assert audit == ["/api/v1/audit"], kind
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


def test_repeated_requests_are_found(client: FlaskClient, story: Story) -> None:
    phone, zone = "79160000321", "Europe/Moscow"
    requests: dict[str, Any] = {
        "/clients": {"phone": phone, "timezone": zone},
        "/opt-outs": {"phones": [phone]},
    }

    def post(path: str) -> Any:
        headers = {"Idempotency-Key": f"repeated{path}"}
        return client.post(f"/api/v1{path}", json=requests[path], headers=headers)

    created = post("/clients").get_json()["id"]
    post("/opt-outs")
    for path in requests:
        found = story.requests_found(lambda path=path: post(path), client=created)  # type: ignore[misc]
        assert found == [f"/api/v1{path}"]


def test_every_page_with_an_id_is_found(app: Flask, story: Story) -> None:
    """Pages and what their buttons post: each action on a mailing, changes and deletions."""
    signed = Signed(app, "admin")
    values = story_values(story)
    missing, called = [], 0
    # What deletes comes last, and the client after all others.
    for rule in sorted(
        app.url_map.iter_rules(),
        key=lambda rule: ("client_id" in rule.arguments, "delete" in rule.rule),
    ):
        named = values.keys() & rule.arguments
        if not named or not rule.rule.startswith("/admin"):
            continue
        method = "POST" if "POST" in (rule.methods or ()) else "GET"
        for path in paths(app, rule, values):
            for name in named:
                kind = "client" if name == "phone" else name.removesuffix("_id")
                data = {"csrf_token": signed.token}
                found = story.requests_found(
                    lambda method=method, path=path, data=data: signed.client.open(  # type: ignore[misc]
                        path, method=method, base_url=PUBLIC, data=data
                    ),
                    **{kind: values["client_id" if name == "phone" else name]},
                )
                called += 1
                if rule.rule not in found:
                    missing.append(f"{method} {path} by {kind}")
    assert not missing
    assert called > 15


def test_forms_that_name_a_client_or_mailing_are_found(app: Flask, story: Story) -> None:
    signed = Signed(app, "admin")

    def post(path: str, **fields: str) -> Callable[[], Any]:
        data = {"csrf_token": signed.token, **fields}
        return lambda: signed.client.post(path, base_url=PUBLIC, data=data)

    phone, mailing = str(story.phone), str(story.mailing)
    test = post("/admin/mailings/test-send", text="Hello", test_phones=phone)
    assert story.requests_found(test, client=story.client)
    new = post("/admin/clients/new", phone=phone, timezone="Europe/Moscow")
    assert story.requests_found(new, client=story.client)
    preview = post("/admin/mailings/preview", mailing=mailing, text="Hello")
    assert story.requests_found(preview, mailing=story.mailing)
    copied = f"/admin/mailings/new?from={mailing}"
    repeat = story.requests_found(
        lambda: signed.client.get(copied, base_url=PUBLIC), mailing=story.mailing
    )
    assert repeat == ["/admin/mailings/new"]


def test_every_event_of_the_api_carries_the_ids_of_its_subject(
    client: FlaskClient, fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    call_everything(client, fleet)
    lines = [line for text in capsys.readouterr().out.splitlines() if (line := parse_line(text))]
    lacking = [line for line in lines if SUBJECTS.get(line["event"], frozenset()) - ids_in(line)]
    assert not lacking
    expected = {each.event for each in logged_events("api") if each.event in SUBJECTS}
    assert {line["event"] for line in lines} >= expected, "call what logs it above"
    replayed = [line for line in lines if line["event"] == "api.replayed"]
    assert [ids_in(line) for line in replayed] == [{"mailing"}]


def call_everything(client: FlaskClient, fleet: Fleet) -> None:
    """Create, change and delete a client, a mailing and an opt-out."""

    def call(method: str, path: str, body: object = None, status: int = 200) -> Any:
        answer = client.open(f"/api/v1{path}", method=method, json=body)
        assert answer.status_code == status, answer.text
        return answer.get_json(silent=True)

    body = {"phone": "79160000123", "timezone": "Europe/Moscow", "tag": "everything"}
    path = f"/clients/{call('POST', '/clients', body, 201)['id']}"
    call("PATCH", path, {"tag": "every thing"})
    call("POST", "/opt-outs", {"phones": [body["phone"]]})
    call("DELETE", f"/opt-outs/{body['phone']}", status=204)
    test = {"text": "Hello", "phones": [body["phone"]]}
    call("POST", "/mailings/test-send", test, 503)  # no worker takes it

    new = {**mailing_body(), "filter": {"tags": ["every thing"]}}
    keyed = {"headers": {"Idempotency-Key": "everything"}, "json": new}
    first, again = (client.post("/api/v1/mailings", **keyed) for _ in range(2))
    mailing: Line = first.get_json()
    assert again.get_json()["id"] == mailing["id"]
    path_of_mailing = f"/mailings/{mailing['id']}"
    call("PATCH", path_of_mailing, {"name": "everything"})
    call("POST", f"{path_of_mailing}/start")
    fleet.launch_mailing(mailing["id"])
    worker = fleet.claim_batch(mailing["id"])
    worker.finish(reports=[rejected(worker.ids[0])])
    for action in ("retry-failed", "pause", "resume", "cancel"):
        call("POST", f"{path_of_mailing}/{action}")
    call("DELETE", path_of_mailing, status=204)
    call("DELETE", path, status=204)


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
