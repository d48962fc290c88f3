"""Secrets of API tokens, and looking up the token that a secret belongs to.

A token is looked up by the SHA-256 of its secret, so that the duration of the search reveals
nothing about stored secrets. Results are cached for a few seconds, so a revoked token may be
accepted that long by other processes.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable

import psycopg2
import structlog
from flask import Flask, current_app
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.actor import Actor
from api.db import db
from shared.domain.scopes import Scope

log = structlog.get_logger()

SECRET = re.compile(r"nt_[A-Za-z0-9_-]{43}")
PREFIX_LENGTH = len("nt_") + 8
CACHE_SECONDS = 3.0
MAX_CACHED_TOKENS = 10_000

FIND = text("""
SELECT id, name, scope, extract(epoch FROM expires_at - now())::float8 AS seconds_left,
    coalesce(last_used_at < now() - interval '1 minute', true) AS last_use_is_old
FROM api_tokens
WHERE digest = :digest AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
""")
# Skips a locked row: the other transaction writes the same value, or revokes the token.
RECORD_USE = text("""
SET LOCAL synchronous_commit = off;
UPDATE api_tokens SET last_used_at = now() WHERE id = (
    SELECT id FROM api_tokens WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED
)
""")


def generate_secret() -> str:
    """Return a new secret of 256 random bits; its first characters are shown in lists."""
    return f"nt_{secrets.token_urlsafe(32)}"


def hash_secret(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class TokenAuthenticator:
    """Finds the actor that a secret belongs to; caches valid tokens in this process."""

    def __init__(self, bootstrap_secret: str) -> None:
        self._bootstrap_digest = hash_secret(bootstrap_secret)
        self._cache: dict[bytes, tuple[Actor, float]] = {}

    def authenticate(self, secret: str) -> Actor | None:
        """Return the actor of a valid token; None if it is unknown, expired or revoked."""
        digest = hash_secret(secret)
        if hmac.compare_digest(digest, self._bootstrap_digest):
            return Actor("bootstrap", Scope.ADMIN)
        if SECRET.fullmatch(secret) is None:
            return None
        actor, valid_until = self._cache.get(digest, (None, 0.0))
        return actor if time.monotonic() < valid_until else self._look_up(digest)

    def clear_cache(self) -> None:
        self._cache = {}

    def _look_up(self, digest: bytes) -> Actor | None:
        self._cache.pop(digest, None)
        started = time.monotonic()
        with db.engine.connect() as connection:
            row = connection.execute(FIND, {"digest": digest}).mappings().first()
        if row is None:
            return None
        actor = Actor(f"token:{row['name']}", Scope(row["scope"]), row["id"])
        seconds = CACHE_SECONDS
        if row["seconds_left"] is not None:
            seconds = min(seconds, row["seconds_left"])
        if len(self._cache) >= MAX_CACHED_TOKENS:
            self.clear_cache()
        self._cache[digest] = (actor, started + seconds)
        if row["last_use_is_old"]:
            _record_use(actor)
        return actor


def init_tokens(app: Flask, bootstrap_secret: str) -> Callable[[str], Actor | None]:
    """Create the application's authenticator; return its function that authenticates a secret."""
    authenticator = app.extensions["tokens"] = TokenAuthenticator(bootstrap_secret)
    return authenticator.authenticate


def clear_token_cache() -> None:
    """Look up all tokens again in this process. A command has no cache."""
    authenticator: TokenAuthenticator | None = current_app.extensions.get("tokens")
    if authenticator is not None:
        authenticator.clear_cache()


def _record_use(actor: Actor) -> None:
    """Store when the token was last used. A failure is logged and does not fail the request."""
    try:
        with db.engine.begin() as connection:
            connection.execute(RECORD_USE, {"id": actor.token_id})
    except (SQLAlchemyError, psycopg2.Error) as error:
        log.warning("token.use_not_kept", error_class=type(error).__name__)
