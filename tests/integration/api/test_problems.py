"""Invalid requests: each gets a precise problem without its input, and changes nothing."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from openapi_spec_validator import validate
from psycopg2.extensions import cursor as Cursor
from werkzeug.test import TestResponse

from api.error_codes import CODES, FIELD_CODES
from tests.integration.conftest import TOKEN, mailing_body, make_app, make_client

CLIENTS, MAILINGS = "/api/v1/clients", "/api/v1/mailings"
Make = Callable[..., dict[str, Any]]


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    """Return the problem in an answer; assert that its form is the usual one."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body: dict[str, Any] = answer.get_json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert {"type", "title", "detail", "instance"} < set(body)
    members = {"type", "title", "status", "code", "detail", "instance", "request_id", "errors"}
    assert set(body) <= members | {"client_id"}
    assert status in CODES[body["code"]].statuses
    for fault in body.get("errors", []):
        assert {"detail", "code"} < set(fault)
        assert fault["code"] in FIELD_CODES
        assert ("pointer" in fault) != ("parameter" in fault)
    return body


def every_route(app: Flask) -> list[tuple[str, str]]:
    """Return a method and an address for each route under /api/v1."""
    return [
        (method, re.sub("<[a-z]+:[a-z_]+>", "1", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1")
        for method in sorted(rule.methods or ())
    ]


def test_every_route_requires_a_token(app: Flask) -> None:
    stranger = app.test_client()
    routes = every_route(app)
    assert len(routes) > 30
    for method, path in [*routes, ("GET", "/api/v1"), ("GET", "/api/v1/nothing"), ("FOO", CLIENTS)]:
        for given in (None, "", "Bearer", f"Basic {TOKEN}", "Bearer wrong", f"Bearer {TOKEN}x"):
            headers = {} if given is None else {"Authorization": given}
            answer = stranger.open(path, method=method, headers=headers)
            assert answer.status_code == 401, (
                f"{method} {path} answers {answer.status_code} without a token: "
                "keep it under /api/v1, where api/http/bearer_auth.py guards it"
            )
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_public_routes_require_no_token(app: Flask) -> None:
    stranger = app.test_client()
    for path in ("/healthz", "/readyz", "/metrics", "/apidoc/openapi.json", "/docs/"):
        assert stranger.get(path).status_code == 200, path


def test_every_route_is_in_the_openapi_document(app: Flask, client: FlaskClient) -> None:
    paths = client.get("/apidoc/openapi.json").get_json()["paths"]
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1"):
            documented = set(paths[re.sub("<[a-z]+:([a-z_]+)>", r"{\1}", rule.rule)])
            served = {m.lower() for m in rule.methods or ()} - {"head", "options"}
            assert served <= documented, rule.rule


def test_openapi_document_is_valid_and_complete(client: FlaskClient) -> None:
    document = client.get("/apidoc/openapi.json").get_json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["tags"], where
            if path.startswith("/api/v1"):
                assert operation["security"] == [{"bearer": []}], where
                assert {"401", "422", "503"} < set(operation["responses"]), where
    ids = [o["operationId"] for ops in document["paths"].values() for o in ops.values()]
    assert len(ids) == len(set(ids))


def test_documentation_loads_local_files_only(client: FlaskClient) -> None:
    assert client.get("/apidoc/swagger").headers["Location"] == "/docs/"
    page = client.get("/docs/").text
    assert re.findall(r"(?:https?:)?//[a-z]", page.replace("// User config", "")) == []
    assert '"validatorUrl": null' in page
    local = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(local) >= 4
    for address in local:
        with client.get(address) as answer:
            assert answer.status_code == 200, address
    assert client.get("/apidoc/redoc").status_code == 404


BAD_BODIES: dict[str, tuple[dict[str, Any], int, str]] = {
    "a 10-digit phone": ({"phone": "9161234567"}, 422, "/phone"),
    "letters": ({"phone": "7916123456x"}, 422, "/phone"),
    "a number for a phone": ({"phone": 79161234567}, 422, "/phone"),
    "an unknown zone": ({"timezone": "Mars/Olympus"}, 422, "/timezone"),
    "a zone that is no string": ({"timezone": 3}, 422, "/timezone"),
    "an unknown field": ({"vip": True}, 422, "/vip"),
    "a long tag": ({"tag": "x" * 65}, 422, "/tag"),
    "NUL": ({"tag": "a\x00"}, 422, "/tag"),
    "half a surrogate pair": ({"tag": "\ud800"}, 422, "/tag"),
    "NUL in a name": ({"a\x00/~": 1}, 422, "/a?~1~0"),
    "half a surrogate pair in a name": ({"\udfff": 1}, 422, "/?"),
    "a code of letters": ({"operator_code": "abc"}, 422, "/operator_code"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_invalid_fields_are_located_by_pointer(
    client: FlaskClient, database: Cursor, name: str
) -> None:
    change, status, pointer = BAD_BODIES[name]
    before = contents(database)
    body = json.dumps({"phone": "79161234567", "timezone": "Europe/Moscow", **change})
    for method, url in (("POST", CLIENTS), ("PUT", f"{CLIENTS}/1"), ("PATCH", f"{CLIENTS}/1")):
        answer = client.open(url, method=method, data=body, content_type="application/json")
        assert [fault["pointer"] for fault in problem(answer, status)["errors"]] == [pointer]
    assert contents(database) == before


RAW_BODIES = [
    (b"", "application/json", 400),
    (b"{", "application/json", 400),
    (b'{"text": "a"', "application/json", 400),
    (b"{'text': 'a'}", "application/json", 400),
    (b'{"phone": NaN}', "application/json", 400),
    (b'{"phone": ' + b"9" * 5000 + b"}", "application/json", 400),
    (b'{"phone": 1e999}', "application/json", 422),
    (b"[" * 100_000, "application/json", 400),
    (b'{"text": "\xff"}', "application/json", 400),
    ('{"text": "привет"}'.encode("cp1251"), "application/json", 400),
    ("{}".encode("utf-16"), "application/json", 400),
    (b"\xef\xbb\xbf{}", "application/json", 400),
    (b"[]", "application/json", 422),
    (b"null", "application/json", 422),
    (b'"text"', "application/json", 422),
    (b"1", "application/json", 422),
    (b"{}", "application/json", 422),
    (b"{}", "application/json; charset=utf-8", 422),
    (b"{}", "text/plain", 415),
    (b"{}", "", 415),
    (b"phone=79161234567", "application/x-www-form-urlencoded", 415),
    (b"x" * (1024 * 1024 + 1), "application/json", 413),
    (b"x" * (1024 * 1024 + 1), "text/csv", 415),
]


@pytest.mark.parametrize("case", range(len(RAW_BODIES)))
@pytest.mark.parametrize("url", [CLIENTS, MAILINGS])
def test_malformed_bodies_are_rejected(
    client: FlaskClient, database: Cursor, url: str, case: int
) -> None:
    body, kind, status = RAW_BODIES[case]
    before = contents(database)
    problem(client.post(url, data=body, content_type=kind), status)
    assert contents(database) == before


def test_compressed_body_is_rejected(client: FlaskClient) -> None:
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    problem(client.post(CLIENTS, data=b"\x1f\x8b", headers=headers), 415)


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=", "cursor"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
        ("tag=%00", "tag"),
        ("phone=916", "phone"),
        ("timezone=Mars", "timezone"),
        ("%ED%A0%80=1", None),
        ("tag=%FF%FE&page=2", "page"),
    ],
)
def test_invalid_parameters_are_named(
    client: FlaskClient, query: str, parameter: str | None
) -> None:
    faults = problem(client.get(f"{CLIENTS}?{query}"), 422)["errors"]
    if parameter is not None:
        assert [fault["parameter"] for fault in faults] == [parameter]


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", ["since", "until"]),
        ("since=2030-12-02&until=5002-06-08", ["until"]),
        ("since=2030-12-02&until=2030-12-01", ["until"]),
        ("since=2030-12-02&until=2199-12-31", ["until"]),
        ("since=1800-01-01&until=2030-12-02&mailing_id=x", ["since", "mailing_id"]),
    ],
)
def test_invalid_days_are_named(client: FlaskClient, query: str, parameters: list[str]) -> None:
    faults = problem(client.get(f"/api/v1/statistics/days?{query}"), 422)["errors"]
    assert [fault["parameter"] for fault in faults] == parameters


def test_unknown_parameters_are_rejected(client: FlaskClient, new_mailing: Make) -> None:
    url = f"{MAILINGS}/{new_mailing()['id']}"
    problem(client.get(f"{url}?verbose=1"), 422)
    problem(client.post(f"{url}/pause?now=1"), 422)
    assert client.get(url).get_json()["status"] == "scheduled"
    problem(client.get(f"{MAILINGS}?status=going"), 422)


def test_errors_of_flask_are_problems(client: FlaskClient) -> None:
    problem(client.get("/nothing"), 404)
    problem(client.get(f"{CLIENTS}/"), 404)
    problem(client.get("//api/v1/clients"), 404)
    answer = client.put(CLIENTS)
    problem(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS", "POST"}
    problem(client.open(CLIENTS, method="BREW"), 405)


def test_errors_do_not_repeat_the_input(client: FlaskClient) -> None:
    secret = "Wm9kaWFj"
    for body in ({"phone": secret, "timezone": secret, "operator_code": secret}, [secret], secret):
        assert secret not in client.post(CLIENTS, json=body).text
    for query in (f"limit={secret}", f"cursor={secret}", f"phone={secret}"):
        assert secret not in client.get(f"{CLIENTS}?{query}").text
    assert secret not in client.post(CLIENTS, data=secret, content_type="application/json").text


@pytest.fixture
def broken(database_url: str, redis_url: str) -> Flask:
    """An application to spoil. Made before capsys, or its logs would stay bound to that."""
    return make_app(database_url, redis_url)


def test_defect_is_logged_and_not_disclosed(
    broken: Flask, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise RuntimeError("a secret reason")

    broken.add_url_rule("/api/v1/broken", view_func=fail)
    answer = make_client(broken).get("/api/v1/broken")
    shown = problem(answer, 500)
    assert "secret" not in answer.text
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (defect,) = [line for line in lines if line["event"] == "api.defect"]
    assert defect["request_id"] == shown["request_id"]
    assert defect["error"] == "a secret reason"
    assert any("fail" in frame for frame in defect["stack"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("order-17.A_b", True),
        ("x" * 64, True),
        ("x" * 65, False),
        ("", False),
        ("a b", False),
        ("a;b", False),
        ("ж", False),
    ],
)
def test_valid_request_id_is_kept(client: FlaskClient, given: str, kept: bool) -> None:
    answer = client.get("/healthz", headers={"X-Request-ID": given.encode().decode("latin-1")})
    if kept:
        assert answer.headers["X-Request-ID"] == given
    else:
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_logs_contain_ids_and_no_personal_data(
    client: FlaskClient, new_client: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    made = new_client()
    client.patch(f"{CLIENTS}/{made['id']}", json={"phone": "79991112233", "tag": "x"})
    text = "A text that no log may contain"
    mailing = client.post(MAILINGS, json={**mailing_body(), "text": text}).get_json()
    client.delete(f"{MAILINGS}/{mailing['id']}", headers={"X-Request-ID": "mine"})
    out = capsys.readouterr().out
    for private in (made["phone"], "79991112233", text, TOKEN):
        assert private not in out
    lines = [json.loads(line) for line in out.splitlines()]
    (updated,) = [line for line in lines if line["event"] == "client.updated"]
    assert (updated["client_id"], updated["changed"]) == (
        made["id"],
        ["phone", "operator_code", "tag"],
    )
    (deleted,) = [line for line in lines if line["event"] == "mailing.deleted"]
    assert (deleted["mailing_id"], deleted["request_id"]) == (mailing["id"], "mine")
    (request,) = [line for line in lines if line.get("request_id") == "mine" and "route" in line]
    assert request["event"] == "api.request"
    assert (request["method"], request["status"]) == ("DELETE", 204)
    assert request["route"] == "/api/v1/mailings/<id:mailing_id>"
    assert request["mailing_id"] == mailing["id"]


def contents(database: Cursor) -> list[tuple[Any, ...]]:
    """Return the contents of the tables that the API writes."""
    found = []
    for table in ("clients", "mailings", "mailing_texts"):
        database.execute(f"SELECT count(*), md5(string_agg(t::text, '' ORDER BY t)) FROM {table} t")
        found += database.fetchall()
    return found


RUSSIAN = {"Accept-Language": "ru-RU, en;q=0.5"}


def test_problems_are_in_the_language_that_the_request_accepts(
    client: FlaskClient, new_client: Make
) -> None:
    """`title`, `detail` and each of `errors`; codes, ids and locations stay."""
    body = {"phone": "916", "timezone": "Mars", "tag": "x" * 65, "vip": True}
    english = problem(client.post(CLIENTS, json=body), 422)
    answer = client.post(CLIENTS, json=body, headers=RUSSIAN)
    russian = problem(answer, 422)
    assert answer.headers["Content-Language"] == "ru"
    assert answer.headers["Vary"] == "Accept-Language"
    assert russian["title"] == "Недопустимые значения"
    assert russian["detail"] == (
        "/phone: нужно 11 цифр, первая — 7, например 79161234567 (и ещё ошибок: 3)"
    )
    assert [each["detail"] for each in russian["errors"]] == [
        "нужно 11 цифр, первая — 7, например 79161234567",
        "длина не больше 64 симв.",
        "нужен часовой пояс IANA, например Europe/Moscow",
        "такого поля или параметра здесь нет",
    ]
    for problem_ in (english, russian):
        for shown in (problem_, *problem_["errors"]):
            for name in ("title", "detail", "request_id"):
                shown.pop(name, None)
    assert russian == english
    owner = new_client()
    taken = {"phone": owner["phone"], "timezone": "Europe/Moscow"}
    shown = problem(client.post(CLIENTS, json=taken, headers=RUSSIAN), 409)
    assert shown["detail"] == f"телефон уже принадлежит клиенту {owner['id']}"
    assert shown["code"] == "phone_taken"


@pytest.mark.parametrize("accepted", [None, "", "*", "fr", "en, ru;q=0.9", "ru;q=0", "-"])
def test_english_is_the_default_language_of_problems(
    client: FlaskClient, accepted: str | None
) -> None:
    headers = {} if accepted is None else {"Accept-Language": accepted}
    answer = client.get("/nothing", headers=headers)
    shown = problem(answer, 404)
    assert (shown["title"], shown["detail"]) == ("Not Found", "There is nothing at this address.")
    assert (answer.headers["Content-Language"], answer.headers["Vary"]) == ("en", "Accept-Language")


def test_answers_without_errors_have_no_language(client: FlaskClient) -> None:
    answer = client.get(CLIENTS, headers=RUSSIAN)
    assert answer.status_code == 200
    assert "Content-Language" not in answer.headers
    assert "Vary" not in answer.headers
