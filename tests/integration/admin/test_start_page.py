"""The page at `/`: the addresses of everything; public secrets only where nothing else is used."""

import re

import pytest
from flask.testing import FlaskClient

from dev.openid import CLIENT_SECRET
from tests.integration.conftest import ADMIN_URL, TOKEN, make_admin_app, make_app

DEMO = {
    "API_BOOTSTRAP_TOKEN": "demo-bootstrap-token",
    "OIDC_CLIENT_SECRET": CLIENT_SECRET,
    "SMTP_URL": "smtp://notifications:demo-mail-password@mail:1025?starttls=never",
    "DEMO_MAIL_PAGE": "http://127.0.0.1:8025",
    "DEMO_PROVIDER_PAGE": "http://127.0.0.1:8090/control/requests",
}


def open_page(
    client: FlaskClient, query: str = "", host: str = ADMIN_URL, language: str = "en"
) -> str:
    answer = client.get(f"/{query}", base_url=host, headers={"Accept-Language": language})
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return answer.get_data(as_text=True)


def addresses(page: str) -> set[str]:
    return set(re.findall(r'<a href="([^"]+)">', page))


@pytest.fixture(scope="module")
def demo(database_url: str, redis_url: str) -> FlaskClient:
    return make_admin_app(database_url, redis_url, **DEMO).test_client()


def test_the_demonstration_lists_all_addresses_and_its_token(demo: FlaskClient) -> None:
    page = open_page(demo)
    assert "This is a demonstration" in page
    assert DEMO["API_BOOTSTRAP_TOKEN"] in page
    assert "Anna" in page
    own = {"/admin/", "/docs/", "/apidoc/openapi.json", "/healthz", "/readyz", "/metrics"}
    assert addresses(page) == {*own, DEMO["DEMO_MAIL_PAGE"], DEMO["DEMO_PROVIDER_PAGE"]}
    for address in own - {"/admin/"}:
        assert demo.get(address, base_url=ADMIN_URL).status_code == 200, address


def test_the_page_is_in_the_language_of_the_browser_or_the_chosen_one(demo: FlaskClient) -> None:
    assert "Это демонстрация" in open_page(demo, language="ru")
    russian = open_page(demo, "?language=ru")
    assert "Это демонстрация" in russian
    assert "/admin/language/ru?next=/admin/" in addresses(russian)
    assert "This is a demonstration" in open_page(demo, "?language=xx")


def test_another_port_than_that_of_public_url_is_pointed_out(demo: FlaskClient) -> None:
    assert "PUBLIC_URL" not in open_page(demo)
    assert "PUBLIC_URL" not in open_page(demo, host=ADMIN_URL.replace("127.0.0.1", "localhost"))
    page = open_page(demo, host="http://127.0.0.1:8001")
    assert f"http://127.0.0.1:8001, but PUBLIC_URL is {ADMIN_URL}" in page


def test_own_secrets_are_not_shown(database_url: str, redis_url: str) -> None:
    links = {name: DEMO[name] for name in ("DEMO_MAIL_PAGE", "DEMO_PROVIDER_PAGE")}
    client = make_app(database_url, redis_url, **links).test_client()
    page = open_page(client, host="http://evil.example")
    assert TOKEN not in page
    assert "evil.example" not in page
    assert "demonstration" not in page
    assert "no OpenID provider is configured" in page
    assert addresses(page) == {"/docs/", "/apidoc/openapi.json", "/healthz"}
