"""Requests that try to choose where answers lead: Host, SCRIPT_NAME, X-Forwarded-* and `next`."""

import http.client
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.integration.conftest import ADMIN_URL, TOKEN, make_admin_app
from tests.support.api_server import Server, running, settings_of

FOREIGN = "evil.example"
# Sent as they are: a browser would not, an attacker does.
HOSTS = [
    FOREIGN,
    f"{FOREIGN}:1",
    f"user@{FOREIGN}",
    "[",
    "[::1",
    "a/../b",
    "%0d%0aX: y",
    "\u00e9",
    "",
]
REDIRECTED = ["/admin", "/docs", "/apidoc/swagger", "/admin/", "/admin/mailings", "/admin?next=//x"]
WSGI_HEADERS = {
    "SCRIPT_NAME": "/evil",
    "PATH_INFO": "/api/v1/clients",
    "REMOTE_USER": "admin",
    "REMOTE_ADDR": "10.0.0.1",
    "SERVER_NAME": FOREIGN,
    "wsgi.url_scheme": "https",
    "Script-Name": "/evil",
    "Path-Info": "/api/v1/clients",
}


@pytest.fixture(scope="module")
def server(
    database_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A real gunicorn that trusts this machine as its proxy, as in a deployment behind nginx."""
    settings = settings_of(database_url, redis_url) | {
        "OIDC_ISSUER": "http://127.0.0.1:9",
        "OIDC_CLIENT_ID": "notifications",
        "PUBLIC_URL": "https://notify.example.com",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "WEB_CONCURRENCY": "1",
    }
    directory: Path = tmp_path_factory.mktemp("server")
    with running(settings, directory) as server:
        yield server


def request(server: Server, path: str, **headers: str) -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection(server.address, timeout=10)) as connection:
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        fields = {"Host": server.address, "Accept": "text/html", **headers}
        for name, text in fields.items():
            connection.putheader(name, text.encode("latin-1"))
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        return answer


@pytest.mark.parametrize("host", HOSTS)
def test_no_host_header_changes_where_a_redirect_leads(server: Server, host: str) -> None:
    for path in REDIRECTED:
        expected = request(server, path)
        answer = request(server, path, Host=host)
        assert answer.status < 500, (path, host)
        location = answer.headers.get("Location")
        if location is not None:
            assert location == expected.headers["Location"]
            assert location.startswith("/"), (path, location)
            assert not location.startswith("//"), (path, location)


def test_forwarded_hosts_are_ignored(server: Server) -> None:
    for header in ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-URL", "X-Rewrite-URL"):
        for path in REDIRECTED:
            answer = request(server, path, **{header: f"host={FOREIGN}"})
            assert FOREIGN not in answer.headers.get("Location", ""), (header, path)


@pytest.mark.parametrize("name", WSGI_HEADERS)
def test_variables_of_wsgi_are_not_taken_from_requests(server: Server, name: str) -> None:
    """Although the request comes from an address that gunicorn trusts as a proxy."""
    forged = {name: WSGI_HEADERS[name]}
    for path, status in (("/healthz", 200), ("/evil/healthz", 404), ("/api/v1/clients", 401)):
        assert request(server, path, **forged).status == status, path
    answer = request(server, "/admin/mailings", **forged)
    assert answer.headers["Location"] == "/admin/sign-in?next=/admin/mailings"
    signed = {**forged, "Authorization": f"Bearer {TOKEN}"}
    assert request(server, "/api/v1/clients", **signed).status == 200


@pytest.fixture(scope="module")
def visitor(database_url: str, redis_url: str) -> FlaskClient:
    app: Flask = make_admin_app(database_url, redis_url)
    return app.test_client()


@pytest.mark.parametrize(
    "target",
    [
        "/admin/\r\nX-Injected: 1",
        "/admin/\n",
        "/admin/\x00",
        "/admin/\x7f",
        "/admin/\x85",
        "/admin/\u2028",
        "/admin/\\evil.example",
        "//evil.example/admin/",
        "https://evil.example/admin/",
        "\t//evil.example",
        "/admin",
        "javascript:alert(1)",
        "/admin/" + "x" * 5000,
        "/admin/../../evil",
        "/admin/%2e%2e/docs/",
        "/admin/./",
    ],
    ids=ascii,
)
def test_next_leads_into_the_admin_ui_whatever_it_contains(
    visitor: FlaskClient, target: str
) -> None:
    """Control characters would be a header of their own, or an error of the server."""
    query = {"next": target.encode("utf-8", "surrogatepass")}
    answer = visitor.get("/admin/language/ru", query_string=query, base_url=ADMIN_URL)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    assert "X-Injected" not in answer.headers
    page = visitor.get("/admin/sign-in", query_string=query, base_url=ADMIN_URL)
    assert page.status_code == 200
    assert 'name="next" value="/admin/"' in page.text


def test_next_keeps_an_address_of_the_admin_ui(visitor: FlaskClient) -> None:
    target = "/admin/mailings?status=running&name=%D0%9F+1"
    answer = visitor.get("/admin/language/ru", query_string={"next": target}, base_url=ADMIN_URL)
    assert answer.headers["Location"] == target
