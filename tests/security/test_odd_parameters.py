"""Parameters of the admin UI with values that no form sends: never a failure of the service."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.routing import Rule

from tests.integration.conftest import ADMIN_URL, mailing_body, make_admin_app, make_client
from tests.support.admin_sessions import sign_in_as

NAMES = (
    *("q", "status", "month", "day", "from", "after", "before", "page", "order", "since", "until"),
    *("phone", "tag", "timezone", "operator_code", "actor", "entity", "entity_id", "action"),
    *("name", "once", "mailing", "next", "reason", "search", "copy", "zone"),
)
VALUES = {
    "nul": "\x00",
    "huge": "9" * 400,
    "beyond-64-bits": "9223372036854775808",
    "month-13": "2026-13",
    "year-9999": "9999-12",
    "arabic": "٢٠٢٦-١٢",
    "surrogate": "%ED%A0%80",
    "not-utf-8": "%FF",
    "quotes": "'\"\\%_&|!():*<->",
    "long": "é" * 150,
}
GIVEN = {
    "day": "2026-01-02",
    "language": "en",
    "theme": "dark",
    "_rest": "nowhere",
    "filename": "admin.css",
    "phone": 79160000002,
}
# Answers that do not end, or end the session.
LEFT_OUT = {"admin.live_updates.stream", "admin.signin.finish_sign_in"}


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str) -> Flask:
    return make_admin_app(database_url, redis_url)


@pytest.fixture(scope="module")
def pages(app: Flask) -> list[str]:
    """The addresses of all pages, of a mailing and a client that are there."""
    api = make_client(app)
    client = {"phone": "79480000077", "timezone": "Europe/Moscow"}
    given = GIVEN | {
        "client_id": api.put("/api/v1/clients/by-phone/79480000077", json=client).get_json()["id"],
        "mailing_id": api.post("/api/v1/mailings", json=mailing_body()).get_json()["id"],
    }

    def addresses() -> Iterator[str]:
        for rule in app.url_map.iter_rules():
            if wanted(rule):
                values = {name: given.get(name, 999) for name in rule.arguments}
                yield str(rule.build(values)[1])  # type: ignore[index]

    return sorted(addresses())


def wanted(rule: Rule) -> bool:
    page = rule.endpoint.startswith("admin.") and "GET" in (rule.methods or ())
    return page and rule.endpoint not in LEFT_OUT


@pytest.fixture(scope="module")
def admin(app: Flask) -> FlaskClient:
    person = app.test_client()
    sign_in_as(app, person, "admin", ADMIN_URL)
    return person


@pytest.mark.parametrize("value", VALUES)
def test_no_parameter_of_a_page_is_a_failure(
    admin: FlaskClient, pages: list[str], value: str
) -> None:
    assert len(pages) > 25
    text = VALUES[value]
    for page in pages:
        query = dict.fromkeys(NAMES, text)
        if text.startswith("%"):
            address = f"{page}?" + "&".join(f"{name}={text}" for name in NAMES)
            answer = admin.get(address, base_url=ADMIN_URL)
        else:
            answer = admin.get(page, query_string=query, base_url=ADMIN_URL)
        assert answer.status_code < 500, (page, answer.text[-500:])
