"""A demo OpenID provider: sign in as one of three people, without a password.

    python -m dev.openid --port 8070

It listens on 127.0.0.1 by default and redirects to this machine only. It checks what a real
provider checks (the client's secret, the redirect's host, PKCE, single use of a code), so that the
admin UI runs its real sign-in. It gives refresh tokens, has a userinfo endpoint, and ends sessions
by back-channel logout: its page /sessions lists who is signed in, ends that and takes roles away.
The secret is a demonstration secret, which the API rejects together with a real address.
"""

import argparse
import json
import logging
import secrets
import signal
import sys
import time
from base64 import urlsafe_b64decode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from flask import Flask, Response, jsonify, redirect, render_template, request
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.datastructures import MultiDict
from werkzeug.serving import make_server
from werkzeug.wrappers import Response as BaseResponse

DEMO_PEOPLE = {
    "anna": {"name": "Anna Admin", "email": "anna@example.com", "roles": ["admin"]},
    "oleg": {"name": "Oleg Operator", "email": "oleg@example.com", "roles": ["operator"]},
    "vera": {"name": "Vera Viewer", "email": "vera@example.com", "roles": ["viewer"]},
}
# Not on the page: for tests of a person without a role.
HIDDEN_PEOPLE = {"nick": {"name": "Nick Norole", "email": "nick@example.com", "roles": []}}
PEOPLE = DEMO_PEOPLE | HIDDEN_PEOPLE
CLIENT_SECRET = "demo-sign-in-secret"  # noqa: S105 (public)
CODE_SECONDS = 60.0
TOKEN_SECONDS = 3600
LOGOUT_TOKEN_SECONDS = 120
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_PATH = "/admin/backchannel-logout"  # below the address of the client's callback
ROLES = ("viewer", "operator", "admin")
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
INVALID_REQUEST = ("This sign-in request is not valid.", 400)


def new_key() -> RSAKey:
    return RSAKey.generate_key(2048, parameters={"kid": secrets.token_hex(4), "use": "sig"})


@dataclass
class SignedIn:
    """A session of the provider: whose it is, at which client, and its latest tokens."""

    person: str
    client: str
    logout_uri: str
    sid: str = field(default_factory=lambda: secrets.token_hex(8))
    refresh_token: str = ""
    access_token: str = ""


def create_provider(
    issuer: str, logout_uri: str | None = None, client_secret: str = CLIENT_SECRET
) -> Flask:
    """Create the provider's application; `issuer` is the URL that clients use.

    `logout_uri` is the client's address for back-channel logout; without it, LOGOUT_PATH at the
    address of its callback.
    """
    app = Flask("openid", template_folder=str(Path(__file__).parent), static_folder=None)
    keys = [new_key()]  # the last one signs
    codes: dict[str, dict[str, Any]] = {}
    signed_in: dict[str, SignedIn] = {}
    roles = {who: list(person["roles"]) for who, person in PEOPLE.items()}

    def sign(claims: dict[str, Any], typ: str = "JWT") -> str:
        return jwt.encode({"alg": "RS256", "kid": keys[-1].kid, "typ": typ}, claims, keys[-1])

    # Tests replace these to get a provider that rotates its keys or misbehaves.
    app.extensions.update(keys=keys, sign=sign, signed_in=signed_in, roles=roles)

    @app.get("/.well-known/openid-configuration")
    def show_configuration() -> Response:
        return jsonify(
            issuer=issuer,
            authorization_endpoint=f"{issuer}/authorize",
            token_endpoint=f"{issuer}/token",
            jwks_uri=f"{issuer}/keys",
            end_session_endpoint=f"{issuer}/end",
            userinfo_endpoint=f"{issuer}/userinfo",
            backchannel_logout_supported=True,
            backchannel_logout_session_supported=True,
            grant_types_supported=["authorization_code", "refresh_token"],
            response_types_supported=["code"],
            subject_types_supported=["public"],
            id_token_signing_alg_values_supported=["RS256"],
            code_challenge_methods_supported=["S256"],
            token_endpoint_auth_methods_supported=["client_secret_basic"],
        )

    @app.get("/keys")
    def show_keys() -> Response:
        return jsonify(keys=[key.as_dict(private=False) for key in keys])

    @app.get("/authorize")
    def show_people() -> str | tuple[str, int]:
        if not _is_valid(request.args):
            return INVALID_REQUEST
        return render_template("openid.html", people=DEMO_PEOPLE)

    @app.post("/authorize")
    def issue_code() -> BaseResponse | tuple[str, int]:
        person = request.form.get("person", "")
        if not _is_valid(request.args) or person not in PEOPLE:
            return INVALID_REQUEST
        code = secrets.token_urlsafe(24)
        expires_at = time.time() + CODE_SECONDS
        codes[code] = {**request.args.to_dict(), "person": person, "expires_at": expires_at}
        query = urlencode({"code": code, "state": request.args.get("state", "")})
        return redirect(f"{request.args['redirect_uri']}?{query}", 303)

    @app.post("/token")
    def issue_token() -> Response | tuple[Response, int]:
        basic = request.authorization
        if basic is None or not secrets.compare_digest(basic.password or "", client_secret):
            return jsonify(error="invalid_client"), 401
        client = basic.username
        nonce = None
        if request.form.get("grant_type") == "refresh_token":
            token = request.form.get("refresh_token", "")
            found = next((each for each in signed_in.values() if each.refresh_token == token), None)
            if not token or found is None or found.client != client:
                return jsonify(error="invalid_grant"), 400
        else:
            granted = codes.pop(request.form.get("code", ""), None)
            late = granted is None or granted["expires_at"] < time.time()
            if granted is None or late or not _matches(granted, client):
                return jsonify(error="invalid_grant"), 400
            origin = urlsplit(granted["redirect_uri"])
            address = logout_uri or f"{origin.scheme}://{origin.netloc}{LOGOUT_PATH}"
            found = SignedIn(granted["person"], granted["client_id"], address)
            signed_in[found.sid] = found
            nonce = granted.get("nonce")
        found.refresh_token, found.access_token = secrets.token_urlsafe(), secrets.token_urlsafe()
        now = int(time.time())
        claims = {
            "iss": issuer,
            "sub": found.person,
            "aud": client,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "sid": found.sid,
            **({} if nonce is None else {"nonce": nonce}),
            **describe(found.person),
        }
        return jsonify(
            id_token=app.extensions["sign"](claims),
            access_token=found.access_token,
            refresh_token=found.refresh_token,
            expires_in=TOKEN_SECONDS,
            token_type="Bearer",  # noqa: S106
        )

    @app.get("/userinfo")
    def show_userinfo() -> Response | tuple[Response, int]:
        token = request.authorization.token if request.authorization else None
        found = next((each for each in signed_in.values() if each.access_token == token), None)
        if not token or found is None:
            return jsonify(error="invalid_token"), 401
        return jsonify(sub=found.person, **describe(found.person))

    @app.get("/sessions")
    def show_sessions() -> str:
        return render_template(
            "openid_sessions.html", sessions=signed_in, people=DEMO_PEOPLE, roles=roles, all=ROLES
        )

    @app.post("/sessions")
    def end_sessions() -> BaseResponse:
        """End a session (`sid`), or all of a person (`person`), and tell the clients."""
        sid, person = request.form.get("sid"), request.form.get("person")
        for each in [s for s in signed_in.values() if sid == s.sid or person == s.person]:
            del signed_in[each.sid]
            tell_client(each)
        return redirect("/sessions", 303)

    @app.post("/roles")
    def change_role() -> BaseResponse | tuple[str, int]:
        person, role = request.form.get("person", ""), request.form.get("role", "")
        if person not in PEOPLE or role not in ("", *ROLES):
            return INVALID_REQUEST
        roles[person] = [role] if role else []
        return redirect("/sessions", 303)

    @app.get("/end")
    def end_session() -> BaseResponse | tuple[str, int]:
        for each in list(signed_in.values()):
            if _is_of_session(request.args.get("id_token_hint", ""), each.sid):
                del signed_in[each.sid]
        target = request.args.get("post_logout_redirect_uri", "")
        if urlsplit(target).hostname not in LOOPBACK:
            return "Signed out.", 200
        return redirect(target, 303)

    def describe(person: str) -> dict[str, Any]:
        return {**PEOPLE[person], "email_verified": True, "roles": roles[person]}

    def tell_client(ended: SignedIn) -> None:
        now = int(time.time())
        claims = {
            "iss": issuer,
            "sub": ended.person,
            "aud": ended.client,
            "iat": now,
            "exp": now + LOGOUT_TOKEN_SECONDS,
            "jti": secrets.token_hex(16),
            "sid": ended.sid,
            "events": {LOGOUT_EVENT: {}},
        }
        token = app.extensions["sign"](claims, "logout+jwt")
        try:
            answer = requests.post(ended.logout_uri, {"logout_token": token}, timeout=5)
            print(f"back-channel logout at {ended.logout_uri}: {answer.status_code}", flush=True)
        except requests.RequestException as error:
            print(f"back-channel logout at {ended.logout_uri}: {error}", flush=True)

    return app


def _is_valid(query: MultiDict[str, str]) -> bool:
    return (
        query.get("response_type") == "code"
        and bool(query.get("client_id"))
        and query.get("code_challenge_method") == "S256"
        and bool(query.get("code_challenge"))
        and urlsplit(query.get("redirect_uri", "")).hostname in LOOPBACK
    )


def _is_of_session(id_token: str, sid: str) -> bool:
    """Return whether an ID token names this session; the hint need not be verified here."""
    try:
        body = id_token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return False
    return bool(claims.get("sid") == sid)


def _matches(granted: dict[str, Any], client: str | None) -> bool:
    """Return whether the token request comes from the client that got the code (RFC 7636)."""
    challenge = create_s256_code_challenge(request.form.get("code_verifier", ""))
    return (
        secrets.compare_digest(challenge, granted["code_challenge"])
        and request.form.get("redirect_uri") == granted["redirect_uri"]
        and client == granted["client_id"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.openid", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--issuer", help="the URL that clients use (http://127.0.0.1:PORT)")
    parser.add_argument("--logout-uri", help="the client's address for back-channel logout")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    issuer = arguments.issuer or f"http://127.0.0.1:{arguments.port}"
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line per request
    app = create_provider(issuer, arguments.logout_uri)
    server = make_server(arguments.host, arguments.port, app, threaded=True)
    print(f"demo OpenID provider at {issuer}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
