"""Sign-in with an OpenID provider that can be made to misbehave, and the limits of sessions."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from flask import Flask
from itsdangerous import TimestampSigner
from psycopg2.extensions import cursor as Cursor

from api.admin import provider_session
from tests.integration.conftest import make_app, value
from tests.support import sign_in
from tests.support.misbehaving_openid import SECRET
from tests.support.sign_in import PUBLIC, Configure, Visitor

app, issuer = sign_in.app, sign_in.issuer
configure_provider, visitor = sign_in.configure_provider, sign_in.visitor
HOURS = 3600


def test_correct_provider_signs_the_person_in(
    visitor: Visitor, database: Cursor, issuer: str
) -> None:
    answer = visitor.sign_in()
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/")
    assert visitor.inside
    database.execute("SELECT actor FROM audit_log WHERE action = 'signed_in'")
    assert value(database) == f"person:{issuer}#oleg"


@pytest.mark.parametrize(
    "ways",
    [
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "another-client"}},
        {"claims": {"aud": ["another-client", "and-another"]}},
        {"claims": {"nonce": "of another sign-in"}},
        {"claims": {"nonce": None}},
        {"claims": {"exp": None}},
        {"claims": {"iss": None}},
        {"claims": {"sub": None}},
        {"from_now": {"exp": -60, "iat": -3600}},
        {"from_now": {"nbf": 600}},
        {"signature": "none"},
        {"signature": "shared"},
        {"signature": "foreign"},
    ],
    ids=str,
)
def test_invalid_id_token_is_rejected(
    visitor: Visitor, configure_provider: Configure, database: Cursor, ways: dict[str, Any]
) -> None:
    database.execute("SELECT count(*) FROM audit_log")
    before = value(database)
    configure_provider(**ways)
    answer = visitor.sign_in("anna")
    assert answer.status_code == 400, answer.headers.get("Location")
    assert "did not succeed" in answer.text
    assert not visitor.inside
    database.execute("SELECT count(*) FROM audit_log")
    assert value(database) == before
    configure_provider()
    assert visitor.sign_in().status_code == 302, "the same browser, an honest provider"


def test_provider_with_another_issuer_is_rejected(
    database_url: str, redis_url: str, issuer: str, configure_provider: Configure
) -> None:
    configure_provider(issuer="https://evil.example")
    app = make_app(
        database_url, redis_url, OIDC_ISSUER=issuer, OIDC_CLIENT_ID="x", PUBLIC_URL=PUBLIC
    )
    answer = Visitor(app).post("/admin/sign-in")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.text


def test_new_signing_key_is_fetched(
    visitor: Visitor, app: Flask, configure_provider: Configure
) -> None:
    assert visitor.sign_in().status_code == 302
    configure_provider(rotate=True)
    assert Visitor(app).sign_in().status_code == 302
    configure_provider(rotate=True)
    assert Visitor(app).sign_in().status_code == 302


def test_session_ends_after_eight_hours_even_if_used(visitor: Visitor, database: Cursor) -> None:
    visitor.sign_in()
    database.execute(
        "SELECT id, expires_at, expires_at - started_at FROM admin_sessions ORDER BY id DESC"
    )
    session_id, until, lasts = database.fetchone() or ()
    assert lasts.total_seconds() == 8 * HOURS
    for _ in range(3):  # using it does not prolong it
        assert visitor.inside
    database.execute("SELECT expires_at FROM admin_sessions WHERE id = %s", (session_id,))
    assert value(database) == until
    database.execute("UPDATE admin_sessions SET expires_at = now() WHERE id = %s", (session_id,))
    assert not visitor.inside
    assert "/admin/sign-in" in visitor.get("/admin/mailings").headers["Location"]


def test_cookie_older_than_eight_hours_is_rejected(
    visitor: Visitor, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while its session is open: the signature has a time of its own."""
    visitor.sign_in()
    long_ago = int(time.time()) - 8 * HOURS - 5
    with visitor.client.session_transaction("/admin/", base_url=PUBLIC) as session:
        content = dict(session)
    serializer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    with monkeypatch.context() as then:
        then.setattr(TimestampSigner, "get_timestamp", lambda self: long_ago)
        old = serializer.dumps(content)
    for cookie, status in ((old, 302), (serializer.dumps(content), 200)):
        visitor.client.set_cookie("admin_session", cookie, domain="127.0.0.1", path="/admin")
        assert visitor.get("/admin/mailings").status_code == status


def test_sign_out_ends_the_session_at_the_provider(visitor: Visitor, issuer: str) -> None:
    visitor.sign_in()
    kept = visitor.client.get_cookie("admin_session", domain="127.0.0.1", path="/admin")
    assert kept
    answer = visitor.post("/admin/sign-out")
    assert answer.status_code == 302
    away = urlsplit(answer.headers["Location"])
    assert f"{away.scheme}://{away.netloc}{away.path}" == f"{issuer}/end"
    asked = {name: values[0] for name, values in parse_qs(away.query).items()}
    assert asked["post_logout_redirect_uri"] == f"{PUBLIC}/admin/sign-in"
    assert asked["client_id"] == "notifications"
    assert asked["id_token_hint"].count(".") == 2
    back = requests.get(answer.headers["Location"], allow_redirects=False, timeout=10)
    assert back.headers["Location"] == f"{PUBLIC}/admin/sign-in"
    assert requests.get(f"{issuer}/control", timeout=10).json()["ended"][-1] == asked
    # A copy of the cookie is worth nothing either.
    visitor.client.set_cookie("admin_session", kept.value, domain="127.0.0.1", path="/admin")
    assert not visitor.inside


@contextmanager
def provider_that_hangs(drips: bool) -> Iterator[str]:
    """Listen on a port and accept connections, but never finish an answer."""
    stopped = threading.Event()

    def serve(listener: socket.socket) -> None:
        kept = []
        while not stopped.is_set():
            with suppress(TimeoutError):
                kept.append(listener.accept()[0])
            for each in kept if drips else ():
                with suppress(OSError):
                    each.sendall(b"H")  # a byte now and then keeps timeouts of a socket quiet
        for each in kept:
            each.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stopped.set()
            thread.join()


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
def test_a_provider_that_hangs_gets_a_page_in_time(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    monkeypatch.setattr(provider_session, "REQUEST_SECONDS", 0.5)
    with provider_that_hangs(drips) as hanging:
        app = make_app(
            database_url, redis_url, OIDC_ISSUER=hanging, OIDC_CLIENT_ID="x", PUBLIC_URL=PUBLIC
        )
        answer = Visitor(app).post("/admin/sign-in")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.text


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token"])
def test_a_provider_that_goes_down_gets_a_page_also_after_earlier_sign_ins(
    visitor: Visitor, app: Flask, configure_provider: Configure, path: str
) -> None:
    """Its metadata is known by then: a redirect would end at the browser's own error page."""
    assert visitor.sign_in().status_code == 302
    other = Visitor(app)
    back = other.granted()
    configure_provider(answers={path: [503, "down"]})
    answer = other.get(back) if path == "/token" else other.post("/admin/sign-in")
    assert answer.status_code == 503
    assert "cannot be reached" in answer.text
    configure_provider()
    assert other.sign_in().status_code == 302


def test_sign_out_without_the_provider_ends_the_session_and_says_so(
    visitor: Visitor, configure_provider: Configure
) -> None:
    visitor.sign_in()
    configure_provider(answers={"/.well-known/openid-configuration": [503, "down"]})
    answer = visitor.post("/admin/sign-out")
    home = urlsplit(answer.headers["Location"])
    assert f"{home.scheme}://{home.netloc}{home.path}" == f"{PUBLIC}/admin/sign-in"
    assert "may still be signed in there" in visitor.get(f"{home.path}?{home.query}").text
    assert not visitor.inside


def test_the_log_names_the_claims_that_came_without_a_role(
    visitor: Visitor, configure_provider: Configure, capfd: pytest.CaptureFixture[str]
) -> None:
    nested = {"web-ui": {"roles": ["operator"]}}  # no word that may be another test's secret
    configure_provider(claims={"roles": ["Boss"], "resource_access": nested})
    answer = visitor.sign_in("nick")
    assert answer.status_code == 403
    lines = capfd.readouterr().out.splitlines()
    logged = next(json.loads(each) for each in lines if "admin.no_role" in each)
    assert (logged["role_claim"], logged["roles"]) == ("roles", ["Boss"])
    assert {"email", "resource_access.web-ui.roles", "roles"} <= set(logged["id_token_claims"])
    assert "sub" in logged["userinfo_claims"]
    assert "nick@example.com" not in json.dumps(logged), "values are personal data"


def test_callback_without_a_valid_code_and_state_is_rejected(visitor: Visitor, app: Flask) -> None:
    stolen = Visitor(app).granted("anna")
    visitor.granted()
    assert visitor.get(stolen).status_code == 400
    assert visitor.get("/admin/sign-in/callback?error=access_denied").status_code == 400
    assert visitor.get("/admin/sign-in/callback").status_code == 400
    assert not visitor.inside


def test_log_of_a_rejected_sign_in_contains_no_secret(
    visitor: Visitor, configure_provider: Configure, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_provider(claims={"nonce": "forged"})
    back = visitor.granted()
    visitor.get(back)
    said = capfd.readouterr()
    lines = said.out + said.err
    assert "admin.sign_in_refused" in lines
    assert parse_qs(urlsplit(back).query)["code"][0] not in lines
    assert SECRET not in lines
