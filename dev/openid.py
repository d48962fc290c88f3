"""An OpenID provider for one's own machine: sign in as one of three demo people, with no password.

    python -m dev.openid --port 8070

It listens on 127.0.0.1 unless told otherwise, and sends people back to this machine alone. It
checks what a real provider checks (the redirect's host, PKCE, that a code is used once), so that
the admin UI is used as it will be.
"""

import argparse
import base64
import hashlib
import html
import secrets
import signal
import sys
import time
from typing import Any
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, jsonify, redirect, request
from joserfc import jwt
from joserfc.jwk import RSAKey
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Response as BaseResponse

PEOPLE = {
    "anna": {"name": "Anna Admin", "email": "anna@example.com", "roles": ["admin"]},
    "oleg": {"name": "Oleg Operator", "email": "oleg@example.com", "roles": ["operator"]},
    "vera": {"name": "Vera Viewer", "email": "vera@example.com", "roles": ["viewer"]},
    "nick": {"name": "Nick Norole", "email": "nick@example.com", "roles": []},
}
SHOWN = ("anna", "oleg", "vera")
CODE_LIFE = 60.0
TOKEN_LIFE = 3600
LOOPBACK = {"127.0.0.1", "localhost", "::1"}

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Demo sign-in</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ display: grid; place-items: center; min-height: 90vh; margin: 0; }}
main {{ width: min(24rem, 90vw); }}
button {{ display: block; width: 100%; padding: .8rem 1rem; margin: .5rem 0; font: inherit;
  text-align: left; border: 1px solid #8886; border-radius: .6rem; background: #8881;
  color: inherit; cursor: pointer; }}
small {{ opacity: .75; }}
</style>
<main><h1>Demo sign-in</h1>
<p>A stand-in for your company's sign-in, on this machine alone. Who are you today?</p>
<form method="post">{people}</form></main></html>"""


def new_key() -> RSAKey:
    return RSAKey.generate_key(2048, parameters={"kid": secrets.token_hex(4), "use": "sig"})


def create_provider(issuer: str) -> Flask:
    """The provider's application; `issuer` is the address it is reached at."""
    app = Flask("openid")
    signing = [new_key()]  # the newest one signs
    codes: dict[str, dict[str, Any]] = {}

    def sign(claims: dict[str, Any]) -> str:
        return jwt.encode({"alg": "RS256", "kid": signing[-1].kid}, claims, signing[-1])

    # What the tests take hold of, to have a provider that rotates its keys, or misbehaves.
    app.extensions.update(signing=signing, sign=sign)

    @app.get("/.well-known/openid-configuration")
    def discover() -> Response:
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
    def keys() -> Response:
        return jsonify(keys=[key.as_dict(private=False) for key in signing])

    @app.get("/authorize")
    def ask() -> str | tuple[str, int]:
        if _unsound(request.args):
            return "This request for a sign-in is not sound.", 400
        buttons = "".join(
            f'<button name="person" value="{who}">{html.escape(str(PEOPLE[who]["name"]))}'
            f"<br><small>{html.escape(str(PEOPLE[who]['email']))}</small></button>"
            for who in SHOWN
        )
        return PAGE.format(people=buttons)

    @app.post("/authorize")
    def grant() -> BaseResponse | tuple[str, int]:
        who = request.form.get("person", "")
        if _unsound(request.args) or who not in PEOPLE:
            return "This request for a sign-in is not sound.", 400
        code = secrets.token_urlsafe(24)
        codes[code] = {**request.args.to_dict(), "who": who, "until": time.time() + CODE_LIFE}
        answer = urlencode({"code": code, "state": request.args.get("state", "")})
        return redirect(f"{request.args['redirect_uri']}?{answer}", 303)

    @app.post("/token")
    def exchange() -> Response | tuple[Response, int]:
        granted = codes.pop(request.form.get("code", ""), None)
        sent = request.authorization
        client = sent.username if sent else request.form.get("client_id")
        if granted is None or granted["until"] < time.time() or not _proves(granted, client):
            return jsonify(error="invalid_grant"), 400
        now = int(time.time())
        claims = {
            "iss": issuer,
            "sub": granted["who"],
            "aud": client,
            "iat": now,
            "exp": now + TOKEN_LIFE,
            "nonce": granted.get("nonce"),
            **PEOPLE[granted["who"]],
        }
        token = app.extensions["sign"](claims)
        access = secrets.token_urlsafe(16)
        answer = {"id_token": token, "access_token": access, "expires_in": TOKEN_LIFE}
        return jsonify(answer | {"token_type": "Bearer"})

    @app.get("/end")
    def end() -> BaseResponse | tuple[str, int]:
        onward = request.args.get("post_logout_redirect_uri", "")
        if urlsplit(onward).hostname not in LOOPBACK:
            return "Signed out.", 200
        return redirect(onward, 303)

    return app


def _unsound(asked: Any) -> bool:
    return (
        asked.get("response_type") != "code"
        or not asked.get("client_id")
        or asked.get("code_challenge_method") != "S256"
        or urlsplit(asked.get("redirect_uri", "")).hostname not in LOOPBACK
    )


def _proves(granted: dict[str, Any], client: str | None) -> bool:
    """Whether whoever brings the code is the one who asked for it (RFC 7636)."""
    digest = hashlib.sha256(request.form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (
        secrets.compare_digest(challenge, granted["code_challenge"])
        and request.form.get("redirect_uri") == granted["redirect_uri"]
        and client == granted["client_id"]
    )


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dev.openid", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--issuer", help="what it is called (http://127.0.0.1:PORT)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    issuer = arguments.issuer or f"http://127.0.0.1:{arguments.port}"
    server = make_server(
        arguments.host,
        arguments.port,
        create_provider(issuer),
        threaded=True,
        request_handler=_Quiet,
    )
    print(f"demo OpenID provider at {issuer}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
