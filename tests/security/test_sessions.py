"""Sessions of the admin UI end when the provider, an administrator or the person ends them.

And only then: no page that a person visits can end their session by sending the browser somewhere.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from flask import Flask
from psycopg2.extensions import cursor as Cursor
from werkzeug.serving import make_server

from api.admin.openid_client import seal_tokens
from dev.openid import LOGOUT_EVENT
from tests.integration.conftest import make_app, make_client, value
from tests.support import sign_in
from tests.support.sign_in import PUBLIC, Configure, Visitor

app, issuer = sign_in.app, sign_in.issuer
configure_provider, visitor = sign_in.configure_provider, sign_in.visitor

LOGOUT = "/admin/backchannel-logout"
Claims = dict[str, Any]


@pytest.fixture
def new_visitor(app: Flask) -> Callable[..., Visitor]:
    def make(who: str = "oleg") -> Visitor:
        visitor = Visitor(app)
        assert visitor.sign_in(who).status_code == 302
        assert visitor.inside
        return visitor

    return make


def provider_sessions(issuer: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = requests.get(f"{issuer}/control", timeout=10).json()["sessions"]
    return found


def logout_claims(issuer: str, **changes: Any) -> Claims:
    now = int(time.time())
    claims: Claims = {
        "iss": issuer,
        "aud": "notifications",
        "iat": now,
        "exp": now + 120,
        "jti": f"jti-{time.monotonic_ns()}",
        "sub": "oleg",
        "events": {LOGOUT_EVENT: {}},
        **changes,
    }
    return {name: each for name, each in claims.items() if each is not None}


def sign(issuer: str, claims: Claims, typ: str = "logout+jwt") -> str:
    return requests.post(f"{issuer}/sign", json=claims, params={"typ": typ}, timeout=10).text


def send(app: Flask, token: str) -> int:
    """Send a logout token as the provider does: without a cookie and without a CSRF token."""
    answer = app.test_client().post(LOGOUT, base_url=PUBLIC, data={"logout_token": token})
    assert answer.headers["Cache-Control"] == "no-store"
    if answer.status_code == 400:
        assert answer.get_json()["error"] == "invalid_request"
    return answer.status_code


# --- back-channel logout ------------------------------------------------------------------------


def test_logout_of_a_person_ends_all_their_sessions_and_no_others(
    app: Flask, issuer: str, new_visitor: Callable[..., Visitor], database: Cursor
) -> None:
    first, second, other = new_visitor(), new_visitor(), new_visitor("anna")
    assert send(app, sign(issuer, logout_claims(issuer))) == 200
    assert (first.inside, second.inside, other.inside) == (False, False, True)
    database.execute(
        "SELECT actor, changes FROM audit_log WHERE action = 'ended' ORDER BY id DESC LIMIT 1"
    )
    assert database.fetchone() == (
        "provider",
        {"why": "provider", "person": f"person:{issuer}#oleg"},
    )


def test_logout_of_a_session_ends_that_one_only(
    app: Flask, issuer: str, new_visitor: Callable[..., Visitor]
) -> None:
    first = new_visitor()
    sid = provider_sessions(issuer)[-1]["sid"]
    second = new_visitor()
    for claims in ({"sub": None}, {}):
        assert send(app, sign(issuer, logout_claims(issuer, sid="unknown", **claims))) == 200
        assert first.inside
    assert send(app, sign(issuer, logout_claims(issuer, sid=sid, sub="anna"))) == 200
    assert first.inside, "the token names another person"
    assert send(app, sign(issuer, logout_claims(issuer, sid=sid, sub=None))) == 200
    assert (first.inside, second.inside) == (False, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": 7},
        {"aud": "another-client"},
        {"aud": ["another-client"]},
        {"aud": {"notifications": 1}},
        {"aud": None},
        {"iat": None},
        {"iat": "now"},
        {"iat": True},
        {"iat": 4102444800, "exp": 4102444900},
        {"exp": None},
        {"exp": 1},
        {"exp": 1e300},
        pytest.param({"exp": int(time.time()) + 400_000}, id="exp too late"),
        {"jti": None},
        {"jti": ""},
        {"jti": 5},
        {"jti": "a\x00b"},
        {"sub": None},
        {"sub": ["oleg"]},
        {"sub": "ol\x00eg"},
        {"sub": "x" * 256},
        {"sid": 7},
        {"sid": "\ud800"},
        {"events": None},
        {"events": {}},
        {"events": [LOGOUT_EVENT]},
        {"events": {LOGOUT_EVENT: None}},
        {"events": {LOGOUT_EVENT: True}},
        {"events": {"http://schemas.openid.net/event/other": {}}},
        {"nonce": "of a sign-in"},
    ],
    ids=ascii,
)
def test_invalid_logout_token_ends_nothing(
    app: Flask, issuer: str, new_visitor: Callable[..., Visitor], changes: Claims
) -> None:
    inside = new_visitor()
    assert send(app, sign(issuer, logout_claims(issuer, **changes))) == 400
    assert inside.inside


@pytest.mark.parametrize("signature", ["none", "shared", "foreign"])
def test_logout_token_with_another_signature_ends_nothing(
    app: Flask,
    issuer: str,
    new_visitor: Callable[..., Visitor],
    configure_provider: Configure,
    signature: str,
) -> None:
    inside = new_visitor()
    configure_provider(signature=signature)
    assert send(app, sign(issuer, logout_claims(issuer))) == 400
    assert inside.inside


def test_what_is_no_logout_token_ends_nothing(
    app: Flask, issuer: str, new_visitor: Callable[..., Visitor]
) -> None:
    inside = new_visitor()
    good = sign(issuer, logout_claims(issuer))
    head, body, signature = good.split(".")
    for token in (
        *("", "x", "a.b.c", "é.é.é", f"{head}.{body}.", f"{head}.{body}", good + "A" * 20_000),
        *(f"{good}.x.y", f"{head}.{body[:-2]}.{signature}"),
        sign(issuer, logout_claims(issuer), "at+jwt"),
    ):
        assert send(app, token) == 400, token[:40]
    client = app.test_client()
    assert client.post(LOGOUT, base_url=PUBLIC, json={"logout_token": good}).status_code == 400
    assert client.get(f"{LOGOUT}?logout_token={good}", base_url=PUBLIC).status_code >= 400
    assert inside.inside


def test_a_logout_token_works_once(
    app: Flask, issuer: str, new_visitor: Callable[..., Visitor]
) -> None:
    first = new_visitor()
    token = sign(issuer, logout_claims(issuer))
    assert send(app, token) == 200
    assert not first.inside
    again = new_visitor()
    assert send(app, token) == 400
    assert again.inside


def test_a_logout_that_overtakes_the_sign_in_prevents_it(
    app: Flask,
    issuer: str,
    visitor: Visitor,
    configure_provider: Configure,
    database: Cursor,
) -> None:
    """The code is granted, and the provider ends the session before it is used."""
    configure_provider(claims={"sid": "overtaken"})
    back = visitor.granted()
    configure_provider()
    assert send(app, sign(issuer, logout_claims(issuer, sid="overtaken"))) == 200
    configure_provider(claims={"sid": "overtaken"})
    assert visitor.get(back).status_code == 400
    assert not visitor.inside
    # The same for a logout of the person, which was issued after the ID token.
    configure_provider()
    later = int(time.time()) + 8
    assert send(app, sign(issuer, logout_claims(issuer, iat=later))) == 200
    assert visitor.sign_in().status_code == 400
    assert visitor.sign_in("anna").status_code == 302
    database.execute("DELETE FROM provider_logouts")


@pytest.fixture
def served(app: Flask) -> Iterator[None]:
    """The application at its public address."""
    server = make_server("127.0.0.1", int(PUBLIC.rpartition(":")[2]), app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.usefixtures("served")
def test_the_demo_provider_ends_sessions(issuer: str, new_visitor: Callable[..., Visitor]) -> None:
    first, other = new_visitor("vera"), new_visitor("anna")
    page = requests.get(f"{issuer}/sessions", timeout=10).text
    assert "Vera Viewer" in page
    requests.post(f"{issuer}/sessions", {"person": "vera"}, timeout=10).raise_for_status()
    assert (first.inside, other.inside) == (False, True)


# --- the role is checked again ------------------------------------------------------------------


def let_check_be_due(database: Cursor) -> None:
    database.execute("UPDATE admin_sessions SET checked_at = now() - interval '121 seconds'")


def change_role(issuer: str, person: str, role: str) -> None:
    requests.post(
        f"{issuer}/roles", {"person": person, "role": role}, timeout=10
    ).raise_for_status()


@pytest.fixture
def roles_of_oleg(issuer: str) -> Iterator[Callable[[str], None]]:
    yield lambda role: change_role(issuer, "oleg", role)
    change_role(issuer, "oleg", "operator")


WITHOUT_REFRESH = """
UPDATE admin_sessions SET tokens = %s, checked_at = now() - interval '121 seconds'
WHERE id = (SELECT max(id) FROM admin_sessions)
"""


def use_userinfo_only(app: Flask, issuer: str, database: Cursor, **changes: Any) -> None:
    """Replace the tokens of the newest session by what a provider without refresh tokens gives."""
    token = {
        "access_token": provider_sessions(issuer)[-1]["access_token"],
        "expires_at": time.time() + 300,
        **changes,
    }
    with app.app_context():
        database.execute(WITHOUT_REFRESH, (seal_tokens(token, "userinfo"),))


def test_a_removed_role_ends_the_session(
    new_visitor: Callable[..., Visitor], roles_of_oleg: Callable[[str], None], database: Cursor
) -> None:
    signed_in = new_visitor()
    roles_of_oleg("")
    assert signed_in.get("/admin/mailings").status_code == 200, "the check is not due yet"
    let_check_be_due(database)
    assert not signed_in.inside
    database.execute("SELECT changes->>'why' FROM audit_log ORDER BY id DESC LIMIT 1")
    assert value(database) == "role_removed"


def test_a_changed_role_applies(
    new_visitor: Callable[..., Visitor], roles_of_oleg: Callable[[str], None], database: Cursor
) -> None:
    signed_in = new_visitor()
    assert signed_in.get("/admin/tokens").status_code == 403
    for role, status in (("admin", 200), ("viewer", 403)):
        roles_of_oleg(role)
        let_check_be_due(database)
        assert signed_in.get("/admin/tokens").status_code == status
    database.execute("SELECT actor, changes FROM audit_log ORDER BY id DESC LIMIT 1")
    assert database.fetchone() == ("provider", {"role": {"old": "admin", "new": "viewer"}})


def test_a_session_that_the_provider_has_ended_ends_at_the_check(
    issuer: str, new_visitor: Callable[..., Visitor], database: Cursor
) -> None:
    """Its logout token was lost: nothing listens at the public address."""
    signed_in = new_visitor()
    sid = provider_sessions(issuer)[-1]["sid"]
    requests.post(f"{issuer}/sessions", {"sid": sid}, timeout=10).raise_for_status()
    assert signed_in.inside
    let_check_be_due(database)
    assert not signed_in.inside


def test_the_userinfo_endpoint_is_asked_without_a_refresh_token(
    app: Flask,
    issuer: str,
    new_visitor: Callable[..., Visitor],
    roles_of_oleg: Callable[[str], None],
    database: Cursor,
) -> None:
    signed_in = new_visitor()
    roles_of_oleg("viewer")
    use_userinfo_only(app, issuer, database)
    assert signed_in.get("/admin/mailings/new").status_code == 403
    roles_of_oleg("")
    let_check_be_due(database)
    assert not signed_in.inside
    roles_of_oleg("operator")
    signed_in = new_visitor()
    use_userinfo_only(app, issuer, database, access_token="revoked")
    assert not signed_in.inside
    signed_in = new_visitor()
    use_userinfo_only(app, issuer, database, access_token="revoked", expires_at=time.time() - 1)
    assert signed_in.inside, "an access token that has expired says nothing about the person"


@pytest.mark.parametrize(
    "answer",
    [
        (500, "broken"),
        (200, "[]"),
        (200, "not JSON"),
        (400, {"error": "temporarily_unavailable"}),
        (400, {"error": ["invalid_grant"]}),
        (200, {"access_token": 5, "id_token": 7}),
        (200, {"access_token": "x", "id_token": "a.b.c", "token_type": "Bearer"}),
    ],
    ids=str,
)
def test_a_failing_provider_ends_no_session(
    new_visitor: Callable[..., Visitor],
    configure_provider: Configure,
    database: Cursor,
    answer: tuple[int, Any],
) -> None:
    signed_in = new_visitor()
    configure_provider(answers={"/token": answer, "/userinfo": answer})
    let_check_be_due(database)
    assert signed_in.inside
    configure_provider()
    let_check_be_due(database)
    assert signed_in.inside


def test_a_refresh_for_another_person_ends_the_session(
    new_visitor: Callable[..., Visitor], configure_provider: Configure, database: Cursor
) -> None:
    signed_in = new_visitor("vera")
    configure_provider(claims={"sub": "anna", "roles": ["admin"]})
    let_check_be_due(database)
    assert not signed_in.inside


def test_the_provider_is_asked_once_in_two_minutes(
    new_visitor: Callable[..., Visitor], configure_provider: Configure, database: Cursor
) -> None:
    signed_in = new_visitor()
    let_check_be_due(database)
    assert signed_in.inside
    configure_provider(answers={"/token": (400, {"error": "invalid_grant"})})
    assert signed_in.inside, "it was asked a moment ago"


def test_a_logout_ends_the_session_during_an_outage_of_the_provider(
    app: Flask,
    issuer: str,
    new_visitor: Callable[..., Visitor],
    configure_provider: Configure,
) -> None:
    """Its keys are known: a failed sign-in does not make the service ask for them again."""
    signed_in = new_visitor()
    token = sign(issuer, logout_claims(issuer))
    configure_provider(answers={"/.well-known/openid-configuration": (503, "down")})
    assert Visitor(app).post("/admin/sign-in").status_code == 503
    assert send(app, token) == 200
    assert not signed_in.inside


def test_a_stranger_who_signs_out_does_not_make_the_service_ask_the_provider(
    database_url: str, redis_url: str
) -> None:
    """A provider that hangs would occupy a thread for each such request."""
    app = make_app(
        database_url,
        redis_url,
        OIDC_ISSUER="http://127.0.0.1:9",
        OIDC_CLIENT_ID="x",
        PUBLIC_URL=PUBLIC,
    )
    answer = Visitor(app).post("/admin/sign-out")
    assert answer.headers["Location"] == f"{PUBLIC}/admin/sign-in"  # it would name the failure


# --- administrators ------------------------------------------------------------------------------


def test_an_administrator_sees_and_ends_sessions(
    issuer: str, new_visitor: Callable[..., Visitor], database: Cursor
) -> None:
    admin, first, second = new_visitor("anna"), new_visitor("vera"), new_visitor("vera")
    page = admin.get("/admin/sessions")
    assert page.status_code == 200
    assert "vera@example.com" in page.text
    assert "(verified)" in page.text
    assert f"vera · {issuer}" in page.text
    database.execute("SELECT id FROM admin_sessions ORDER BY id DESC LIMIT 2")
    newest, older = (session_id for (session_id,) in database.fetchall())
    assert admin.post(f"/admin/sessions/{older}/end").status_code == 303
    assert (first.inside, second.inside) == (False, True)
    admin.post(f"/admin/sessions/{older}/end")
    assert "had ended already" in admin.get("/admin/sessions").text
    third = new_visitor("vera")
    assert admin.post(f"/admin/sessions/{newest}/end", all="1").status_code == 303
    assert (second.inside, third.inside, admin.inside) == (False, False, True)
    database.execute(
        "SELECT actor, changes FROM audit_log WHERE entity = 'session' AND entity_id = %s"
        " AND action = 'ended'",
        (newest,),
    )
    assert database.fetchone() == (
        f"person:{issuer}#anna",
        {"why": "admin", "person": f"person:{issuer}#vera"},
    )


def test_only_administrators_see_sessions(new_visitor: Callable[..., Visitor]) -> None:
    operator = new_visitor("oleg")
    assert operator.get("/admin/sessions").status_code == 403
    assert operator.post("/admin/sessions/1/end").status_code == 403


# --- nothing else ends a session -----------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/admin/sign-out",
        "/admin/sign-in",
        "/admin/sign-in/callback",
        "/admin/sign-in/callback?state=foreign&code=x",
        "/admin/sign-in/callback?error=access_denied",
        "/admin/sign-in/callback?error=access_denied&state=foreign",
        "/admin/sign-in/callback?code=%00&state=%00",
        "/admin/backchannel-logout?logout_token=x",
        "/admin/sessions/1/end",
        "/admin/language/xx?next=/admin/sign-out",
    ],
)
def test_no_get_ends_a_session(new_visitor: Callable[..., Visitor], path: str) -> None:
    signed_in = new_visitor()
    assert signed_in.get(path).status_code < 500
    assert signed_in.inside


def test_a_callback_for_another_browser_does_not_end_a_session(
    app: Flask, new_visitor: Callable[..., Visitor]
) -> None:
    signed_in = new_visitor("anna")
    foreign = Visitor(app).granted("vera")
    assert signed_in.get(foreign).status_code == 400
    page = signed_in.get("/admin/mailings").text
    assert "Anna Admin" in page


def test_posts_of_other_sites_do_not_end_a_session(new_visitor: Callable[..., Visitor]) -> None:
    signed_in = new_visitor()
    for path in ("/admin/sign-out", "/admin/sign-in"):
        assert signed_in.client.post(path, base_url=PUBLIC).status_code == 400
    assert signed_in.inside


def test_a_new_sign_in_replaces_the_session_and_its_key(
    app: Flask, new_visitor: Callable[..., Visitor]
) -> None:
    """A key that was planted or copied before the sign-in is worth nothing after it."""
    signed_in = new_visitor()
    before = signed_in.client.get_cookie("admin_session", domain="127.0.0.1", path="/admin")
    assert before is not None
    assert signed_in.sign_in("anna").status_code == 302
    after = signed_in.client.get_cookie("admin_session", domain="127.0.0.1", path="/admin")
    assert after is not None
    assert after.value != before.value
    thief = Visitor(app)
    thief.client.set_cookie("admin_session", before.value, domain="127.0.0.1", path="/admin")
    assert not thief.inside
    assert signed_in.inside


# --- who it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": "ol\x00eg"},
        {"sub": 17},
        {"sub": ["oleg"]},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"name": "Oleg\x00"},
        {"name": {"first": "Oleg"}},
        {"name": "Oleg \u202egnp.exe"},
        {"name": "\ud800"},
        {"email": ["oleg@example.com"]},
        {"email": "oleg@example.com\r\nBcc: x"},
        {"email_verified": "yes"},
        {"email_verified": 1},
        {"email_verified": ["true"]},
        {"preferred_username": 5, "name": None},
        {"sid": {"a": 1}},
        {"sid": "\x00"},
        {"iat": "now"},
        {"iat": None},
        {"iat": []},
        {"exp": "soon"},
        {"exp": {}},
        {"nbf": "x"},
        {"iss": 5},
        {"aud": {}},
    ],
    ids=ascii,
)
def test_odd_claims_are_refused(
    visitor: Visitor, configure_provider: Configure, claims: Claims
) -> None:
    configure_provider(claims=claims)
    answer = visitor.sign_in()
    # A provider that fails at its own claim (a lone surrogate) is one that is down.
    assert answer.status_code in (400, 503)
    assert "did not succeed" in answer.text or "cannot be reached" in answer.text
    assert not visitor.inside


@pytest.mark.parametrize(
    "roles",
    [7, True, {"admin": 1}, [["admin"]], ["admin\x00"], "admin,viewer", [None], [{"a": 1}], "\x00"],
    ids=ascii,
)
def test_odd_role_claims_give_no_role(
    visitor: Visitor, configure_provider: Configure, roles: Any
) -> None:
    configure_provider(claims={"roles": roles}, answers={"/userinfo": (200, {"sub": "oleg"})})
    assert visitor.sign_in().status_code == 403
    assert not visitor.inside


def test_audit_names_people_by_issuer_and_subject(
    app: Flask, issuer: str, configure_provider: Configure
) -> None:
    """Two people who state one e-mail are two; whether it is verified is shown."""
    for subject, verified in (("first", True), ("second", False)):
        configure_provider(
            claims={
                "sub": subject,
                "email": "same@example.com",
                "email_verified": verified,
                "roles": ["admin"],
            }
        )
        person = Visitor(app)
        assert person.sign_in().status_code == 302
    found = make_client(app).get("/api/v1/audit?actor=same@example.com").get_json()["items"]
    assert [(entry["actor"], entry["person"]["email_verified"]) for entry in found] == [
        (f"person:{issuer}#second", False),
        (f"person:{issuer}#first", True),
    ]
    assert "same@example.com" not in {entry["actor"] for entry in found}
    page = person.get("/admin/audit?actor=same@example.com").text
    assert len(re.findall(r"same@example.com <span[^>]*>\(verified\)", page)) == 1
    assert len(re.findall(r"same@example.com <span[^>]*>\(not verified\)", page)) == 1
    exact = make_client(app).get("/api/v1/audit", query_string={"actor": f"person:{issuer}#first"})
    assert len(exact.get_json()["items"]) == 1
