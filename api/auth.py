"""Who may call: everything under /api/v1 demands a bearer token, even what does not exist."""

import hmac

from flask import Flask, request

from api.problems import Unauthorized

PROTECTED = "/api/v1"


def init_auth(app: Flask, token: str) -> None:
    expected = token.encode()

    def demand_token() -> None:
        if request.path != PROTECTED and not request.path.startswith(f"{PROTECTED}/"):
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthorized(
                "Send an API token in the header: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if not hmac.compare_digest(given.strip().encode(), expected):
            raise Unauthorized(
                "The API token is not valid.",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )

    app.before_request(demand_token)
