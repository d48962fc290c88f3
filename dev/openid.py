"""A demo OpenID provider: sign in as one of three people, without a password.

    python -m dev.openid --port 8070

It listens on 127.0.0.1 by default and redirects to this machine only. It checks what a real
provider checks (the redirect's host, PKCE, single use of a code), so that the admin UI runs its
real sign-in.
"""

import argparse
import logging
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

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
CODE_SECONDS = 60.0
TOKEN_SECONDS = 3600
LOOPBACK = {"127.0.0.1", "localhost", "::1"}
INVALID_REQUEST = ("This sign-in request is not valid.", 400)


def new_key() -> RSAKey:
    return RSAKey.generate_key(2048, parameters={"kid": secrets.token_hex(4), "use": "sig"})


def create_provider(issuer: str) -> Flask:
    """Create the provider's application; `issuer` is the URL that clients use."""
    app = Flask("openid", template_folder=str(Path(__file__).parent), static_folder=None)
    keys = [new_key()]  # the last one signs
    codes: dict[str, dict[str, Any]] = {}

    def sign(claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": keys[-1].kid}, claims, keys[-1])

    # Tests replace these to get a provider that rotates its keys or misbehaves.
    app.extensions.update(keys=keys, sign=sign)

    @app.get("/.well-known/openid-configuration")
    def show_configuration() -> Response:
        return jsonify(
            issuer=issuer,
            authorization_endpoint=f"{issuer}/authorize",
            token_endpoint=f"{issuer}/token",
            jwks_uri=f"{issuer}/keys",
            end_session_endpoint=f"{issuer}/end",
            response_types_supported=["code"],
            subject_types_supported=["public"],
            id_token_signing_alg_values_supported=["RS256"],
            code_challenge_methods_supported=["S256"],
            token_endpoint_auth_methods_supported=["client_secret_basic", "none"],
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
        granted = codes.pop(request.form.get("code", ""), None)
        basic = request.authorization
        client = basic.username if basic else request.form.get("client_id")
        if granted is None or granted["expires_at"] < time.time() or not _matches(granted, client):
            return jsonify(error="invalid_grant"), 400
        now = int(time.time())
        claims = {
            "iss": issuer,
            "sub": granted["person"],
            "aud": client,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "nonce": granted.get("nonce"),
            **PEOPLE[granted["person"]],
        }
        return jsonify(
            id_token=app.extensions["sign"](claims),
            access_token=secrets.token_urlsafe(16),
            expires_in=TOKEN_SECONDS,
            token_type="Bearer",  # noqa: S106
        )

    @app.get("/end")
    def end_session() -> BaseResponse | tuple[str, int]:
        target = request.args.get("post_logout_redirect_uri", "")
        if urlsplit(target).hostname not in LOOPBACK:
            return "Signed out.", 200
        return redirect(target, 303)

    return app


def _is_valid(query: MultiDict[str, str]) -> bool:
    return (
        query.get("response_type") == "code"
        and bool(query.get("client_id"))
        and query.get("code_challenge_method") == "S256"
        and bool(query.get("code_challenge"))
        and urlsplit(query.get("redirect_uri", "")).hostname in LOOPBACK
    )


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
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    issuer = arguments.issuer or f"http://127.0.0.1:{arguments.port}"
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line per request
    app = create_provider(issuer)
    server = make_server(arguments.host, arguments.port, app, threaded=True)
    print(f"demo OpenID provider at {issuer}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
