"""Sign-in at an OpenID provider that can be made to misbehave: fixtures, and a browser."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dev.stack.ports import free_port
from tests.integration.conftest import make_app
from tests.support.misbehaving_openid import SECRET
from tests.support.system import Process
from tests.support.waiting import wait_for

PUBLIC = "http://127.0.0.1:5999"
Configure = Callable[..., None]


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "tests.support.misbehaving_openid", "--port", str(port)]
    process = Process("openid", argv, {}, tmp_path_factory.mktemp("openid") / "log")
    process.start()
    try:
        wait_for(lambda: _answers(f"http://127.0.0.1:{port}/keys"), 20, "the OpenID provider")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stop()


@pytest.fixture(scope="module")
def app(database_url: str, redis_url: str, issuer: str) -> Flask:
    return make_app(
        database_url,
        redis_url,
        OIDC_ISSUER=issuer,
        OIDC_CLIENT_ID="notifications",
        OIDC_CLIENT_SECRET=SECRET,
        PUBLIC_URL=PUBLIC,
    )


@pytest.fixture
def configure_provider(issuer: str) -> Iterator[Configure]:
    """Configure how the provider misbehaves; reset it afterwards."""

    def configure(**behaviour: Any) -> None:
        requests.post(f"{issuer}/control", json=behaviour, timeout=10).raise_for_status()

    yield configure
    configure()


class Visitor:
    """A browser that signs in and out."""

    def __init__(self, app: Flask) -> None:
        self.client: FlaskClient = app.test_client()

    def get(self, path: str) -> TestResponse:
        return self.client.get(path, base_url=PUBLIC, headers={"Accept": "text/html"})

    def post(self, path: str, **fields: str) -> TestResponse:
        token = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/admin/sign-in").text)
        if token is None:  # signed in: redirected to a page that has a token
            token = re.search(r'csrf-token" content="([^"]+)"', self.get("/admin/mailings").text)
        assert token
        return self.client.post(path, base_url=PUBLIC, data={"csrf_token": token[1], **fields})

    def granted(self, who: str = "oleg") -> str:
        """Return the address to which the provider redirects this browser."""
        away = self.post("/admin/sign-in")
        assert away.status_code == 302, away.text
        answer = requests.post(
            away.headers["Location"], {"person": who}, allow_redirects=False, timeout=10
        )
        assert answer.status_code == 303, answer.text
        back = urlsplit(answer.headers["Location"])
        return f"{back.path}?{back.query}"

    def sign_in(self, who: str = "oleg") -> TestResponse:
        return self.get(self.granted(who))

    @property
    def inside(self) -> bool:
        return self.get("/admin/mailings").status_code == 200


@pytest.fixture
def visitor(app: Flask) -> Visitor:
    return Visitor(app)


def _answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=2).ok
    except requests.RequestException:
        return False
