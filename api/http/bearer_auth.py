"""Who may call, and what: under /api/v1 a bearer token is demanded, even for what does not exist.

A token is looked up by the SHA-256 of its secret, which nobody can steer towards a stored one by
timing. What was found is remembered for a few seconds, so a revoked token may work that long.
"""

import hashlib
import hmac
import re
import secrets
import time
from typing import Any

import psycopg2
import structlog
from flask import Flask, g, request
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.actor import Actor
from api.db import db
from api.http.problems import Forbidden, Unauthorized
from shared.domain.scopes import Scope

log = structlog.get_logger()

PROTECTED = "/api/v1"

TOKEN = re.compile(r"nt_[A-Za-z0-9_-]{43}")
PREFIX_LENGTH = len("nt_") + 8
# For how long a token that was found is believed; revoking takes effect within it.
REMEMBERED_SECONDS = 3.0
REMEMBERED_TOKENS = 10_000

FIND = text("""
SELECT id, name, scope, extract(epoch FROM expires_at - now())::float8 AS seconds_left,
    coalesce(last_used_at < now() - interval '1 minute', true) AS use_is_news
FROM api_tokens
WHERE digest = :digest AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")
# Waits for nobody: who holds the row is writing the same, or revoking.
USED = text("""
SET LOCAL synchronous_commit = off;
UPDATE api_tokens SET last_used_at = now() WHERE id = (
    SELECT id FROM api_tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED
)
""")


class TokenAuthenticator:
    """The tokens that are valid, as far as this process knows."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = hash_secret(bootstrap)
        self._remembered: dict[bytes, tuple[Actor, float]] = {}

    def identify(self, secret: str) -> Actor | None:
        given = hash_secret(secret)
        if hmac.compare_digest(given, self._bootstrap):
            return Actor("bootstrap", Scope.ADMIN)
        if TOKEN.fullmatch(secret) is None:
            return None
        caller, until = self._remembered.get(given, (None, 0.0))
        return caller if time.monotonic() < until else self._find(given)

    def forget(self) -> None:
        """Look every token up again."""
        self._remembered = {}

    def _find(self, given: bytes) -> Actor | None:
        self._remembered.pop(given, None)
        asked = time.monotonic()
        with db.engine.connect() as connection:
            row = connection.execute(FIND, {"digest": given}).mappings().first()
        if row is None:
            return None
        caller = Actor(f"token:{row['name']}", Scope(row["scope"]), row["id"])
        left = REMEMBERED_SECONDS
        if row["seconds_left"] is not None:
            left = min(left, row["seconds_left"])
        if len(self._remembered) >= REMEMBERED_TOKENS:
            self.forget()
        self._remembered[given] = (caller, asked + left)
        if row["use_is_news"]:
            _note_use(caller)
        return caller


def generate_secret() -> str:
    """A secret that cannot be guessed; its beginning is shown in lists."""
    return f"nt_{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def required_scope(view: Any, method: str) -> Scope:
    """What a view demands of a token; one that does not say is for administrators."""
    default = Scope.READ if method in ("GET", "HEAD", "OPTIONS") else Scope.WRITE
    return getattr(view, "scope", Scope.ADMIN) or default


def init_bearer_auth(app: Flask, bootstrap: str) -> None:
    tokens = app.extensions["tokens"] = TokenAuthenticator(bootstrap)

    def demand_token() -> None:
        if request.path != PROTECTED and not request.path.startswith(f"{PROTECTED}/"):
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise Unauthorized(
                "Send an API token in the header: Authorization: Bearer TOKEN.",
                headers={"WWW-Authenticate": "Bearer"},
            )
        caller = tokens.identify(given.strip())
        if caller is None:
            raise Unauthorized(
                "The API token is not valid: it is unknown, expired or revoked.",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        g.actor = caller._replace(request_id=g.request_id)
        structlog.contextvars.bind_contextvars(actor=caller.name, actor_id=caller.token_id)
        if request.endpoint is not None:
            view = app.view_functions[request.endpoint]
            _demand_scope(caller, required_scope(view, request.method))

    app.before_request(demand_token)


def _demand_scope(caller: Actor, needed: Scope) -> None:
    if not caller.scope.includes(needed):
        raise Forbidden(
            f"The API token's scope is {caller.scope}; this takes the scope {needed}.",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'},
        )


def _note_use(caller: Actor) -> None:
    """Keep when a token was last used: nice to know, and never worth failing a request."""
    try:
        with db.engine.begin() as connection:
            connection.execute(USED, {"id": caller.token_id})
    except (SQLAlchemyError, psycopg2.Error) as error:
        log.warning("token.use_not_kept", error_class=type(error).__name__)
