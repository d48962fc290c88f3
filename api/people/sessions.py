"""Sessions of the admin UI: start, find, check and end them.

A session is a row in PostgreSQL; its cookie carries a random key, of which the row has the SHA-256.
So a session ends for every copy of its cookie and in every process at once.
"""

import hashlib
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg2
import structlog
from flask import current_app
from sqlalchemy import text

from api.actor import Actor
from api.audit_log import service as audit_log
from api.db import autocommit_cursor, db, fetch_all
from api.errors import Conflict, NotFound
from shared.db.prepared_statements import PreparedStatement
from shared.domain.error_texts import error_text
from shared.domain.scopes import Scope

log = structlog.get_logger()

NO_SESSION = error_text("There is no such session.")

SESSION_SECONDS = 8 * 3600
# For how long the live figures may know a session; everything else reads it anew.
CACHE_SECONDS = 5.0
CACHE, MAX_CACHED = "admin_session_cache", 1_000
# How often the provider is asked whether the person still has the role.
CHECK_SECONDS = 120
# How long a logout is remembered at least, for a sign-in that it overtakes.
MIN_LOGOUT_MEMORY = timedelta(hours=1)

# Used by each request of a page: a single round trip.
FIND = PreparedStatement(
    "find_admin_session",
    f"""
SELECT s.id, s.person_id, p.issuer, p.subject, p.name, p.email, p.email_verified, s.role,
    s.checked_at < now() - interval '{CHECK_SECONDS} seconds' AS check_is_due,
    s.seen_at < now() - interval '60 seconds' AS last_use_is_old
FROM admin_sessions s JOIN people p ON p.id = s.person_id
WHERE s.digest = %(digest)s AND s.ended_at IS NULL AND s.expires_at > now()
""",  # noqa: S608 (constants)
)
RECORD_PERSON = text("""
INSERT INTO people (issuer, subject, name, email, email_verified)
VALUES (:issuer, :subject, :name, :email, :email_verified)
ON CONFLICT (issuer, subject) DO UPDATE SET name = excluded.name, email = excluded.email,
    email_verified = excluded.email_verified, signed_in_at = now()
RETURNING id
""")
# A logout that names no session of the provider ends those that began before it.
ENDED_BY_PROVIDER = text("""
SELECT 1 FROM provider_logouts WHERE provider_session = :sid
UNION ALL SELECT 1 FROM provider_logouts
WHERE provider_session IS NULL AND subject = :subject AND issued_at > :issued_at
""")
INSERT = text("""
INSERT INTO admin_sessions (digest, person_id, role, provider_session, tokens, expires_at)
VALUES (:digest, :person_id, :role, :sid, :tokens, now() + :seconds * interval '1 second')
RETURNING id
""")
# Serialises sign-ins with the provider's logouts, each of which may overtake the other.
LOCK = text("SELECT pg_advisory_xact_lock(hashtext('admin_sessions'))")
RECORD_USE = "UPDATE admin_sessions SET seen_at = now() WHERE id = %s"
# One request checks; those beside it keep the role that is known.
CLAIM_CHECK = text(f"""
UPDATE admin_sessions SET checked_at = now()
WHERE id = :id AND ended_at IS NULL
    AND checked_at < now() - interval '{CHECK_SECONDS} seconds' RETURNING tokens
""")  # noqa: S608 (constants)
RECORD_CHECK = text("""
UPDATE admin_sessions SET role = :role, tokens = :tokens WHERE id = :id AND ended_at IS NULL
RETURNING id
""")
READ_TOKENS = text("SELECT tokens FROM admin_sessions WHERE id = :id")
END = text("""
UPDATE admin_sessions s SET ended_at = now(), tokens = NULL FROM people p
WHERE p.id = s.person_id AND s.ended_at IS NULL AND s.expires_at > now() AND s.id = :id
RETURNING s.id, p.issuer, p.subject
""")
END_OF_PERSON = text("""
UPDATE admin_sessions s SET ended_at = now(), tokens = NULL FROM people p
WHERE p.id = s.person_id AND s.ended_at IS NULL AND s.expires_at > now()
    AND s.person_id = (SELECT person_id FROM admin_sessions WHERE id = :id)
RETURNING s.id, p.issuer, p.subject
""")
# A logout of one session of the provider; or, without a session, of the person.
END_BY_PROVIDER = text("""
UPDATE admin_sessions s SET ended_at = now(), tokens = NULL FROM people p
WHERE p.id = s.person_id AND s.ended_at IS NULL AND p.issuer = :issuer
    AND (CAST(:subject AS text) IS NULL OR p.subject = :subject)
    AND (s.provider_session = CAST(:sid AS text)
        OR (CAST(:subject AS text) IS NOT NULL
            AND (CAST(:sid AS text) IS NULL OR s.provider_session IS NULL)))
RETURNING s.id, p.issuer, p.subject
""")
RECORD_LOGOUT = text("""
INSERT INTO provider_logouts (token_id, subject, provider_session, issued_at, keep_until)
VALUES (:token_id, :subject, :sid, :issued_at, :keep_until)
ON CONFLICT DO NOTHING RETURNING token_id
""")
FORGET_LOGOUTS = text("DELETE FROM provider_logouts WHERE keep_until < now()")


@dataclass(frozen=True)
class Identity:
    """Who signed in, as the provider says; `sid` is the provider's session."""

    issuer: str
    subject: str
    name: str
    email: str
    email_verified: bool
    sid: str | None


class Logout(NamedTuple):
    """A valid logout token of the provider: whose sessions end."""

    token_id: str
    issuer: str
    subject: str | None
    sid: str | None
    issued_at: datetime
    expires_at: datetime


class SessionEnded(Conflict):
    """The provider has ended the person's session while the sign-in was under way."""


def provider_actor(request_id: str | None) -> Actor:
    """Return the OpenID provider as an actor: it ends sessions and changes roles."""
    return Actor("provider", Scope.ADMIN, request_id=request_id)


def start_session(
    identity: Identity, role: str, tokens: bytes, issued_at: datetime, actor: Actor
) -> str:
    """Start and commit a session; return the key for its cookie.

    `issued_at` is when the provider confirmed the sign-in. Raise SessionEnded if it has ended it
    since.
    """
    key = secrets.token_urlsafe(32)
    db.session.execute(LOCK)
    ended = {"sid": identity.sid, "subject": identity.subject, "issued_at": issued_at}
    if fetch_all(ENDED_BY_PROVIDER, **ended):
        db.session.rollback()
        raise SessionEnded(error_text("The provider has ended this session."), "session_ended")
    person = {
        "issuer": identity.issuer,
        "subject": identity.subject,
        "name": identity.name,
        "email": identity.email,
        "email_verified": identity.email_verified,
    }
    person_id = db.session.scalar(RECORD_PERSON, person)
    session_id = db.session.scalar(
        INSERT,
        {
            "digest": _digest(key),
            "person_id": person_id,
            "role": role,
            "sid": identity.sid,
            "tokens": tokens,
            "seconds": SESSION_SECONDS,
        },
    )
    audit_log.record_change(actor, "signed_in", "session", session_id, {"role": role})
    db.session.commit()
    return key


def find_session(key: str) -> Any:
    """Return the session with this key, a named tuple of the columns of FIND; None if it ended."""
    with autocommit_cursor() as direct:
        FIND.run(direct, {"digest": _digest(key)})
        found: Any = direct.fetchone()
        if found is not None and found.last_use_is_old:
            with suppress(psycopg2.Error):  # a page is shown by a read-only server as well
                direct.execute(RECORD_USE, (found.id,))
    return found


def find_session_seen_lately(key: str) -> Any:
    """Return the session like `find_session`, as it was up to CACHE_SECONDS ago.

    For the live figures, which every open page asks for all the time.
    """
    cache: dict[str, tuple[Any, float]] = current_app.extensions.setdefault(CACHE, {})
    found, valid_until = cache.get(key, (None, 0.0))
    if time.monotonic() < valid_until:
        return found
    if len(cache) >= MAX_CACHED:
        cache.clear()
    found = find_session(key)
    cache[key] = (found, time.monotonic() + CACHE_SECONDS)
    return found


def claim_check(session_id: int) -> bytes | None:
    """Claim the check of a session's role; return its tokens, or None if another request checks."""
    tokens: bytes | None = db.session.scalar(CLAIM_CHECK, {"id": session_id})
    db.session.commit()
    return None if tokens is None else bytes(tokens)


def record_check(session_id: int, before: str, role: str, tokens: bytes, actor: Actor) -> bool:
    """Store the role and the tokens that a check found; return whether the session is open."""
    values = {"id": session_id, "role": role, "tokens": tokens}
    is_open = db.session.scalar(RECORD_CHECK, values) is not None
    if is_open and role != before:
        changes = {"role": {"old": before, "new": role}}
        audit_log.record_change(actor, "role_changed", "session", session_id, changes)
        log.info("admin.role_changed", session_id=session_id, role=role)
    db.session.commit()
    return is_open


def read_tokens(session_id: int) -> bytes | None:
    """Return the encrypted tokens of a session."""
    tokens: bytes | None = db.session.scalar(READ_TOKENS, {"id": session_id})
    return None if tokens is None else bytes(tokens)


def end_session(session_id: int, why: str, actor: Actor) -> None:
    """End and commit a session. Raise NotFound if it has ended."""
    if not _end(END, {"id": session_id}, why, actor):
        raise NotFound(NO_SESSION)


def end_sessions_of_person(session_id: int, why: str, actor: Actor) -> int:
    """End all sessions of the person whose session this is; return how many were open.

    Raise NotFound if none was.
    """
    ended = _end(END_OF_PERSON, {"id": session_id}, why, actor)
    if not ended:
        raise NotFound(NO_SESSION)
    return ended


def end_by_provider(logout: Logout, actor: Actor) -> int:
    """End the sessions that a logout token names; return how many were open.

    Raise Conflict for a token that was accepted before.
    """
    keep_until = max(logout.expires_at, datetime.now(UTC) + MIN_LOGOUT_MEMORY)
    db.session.execute(LOCK)
    db.session.execute(FORGET_LOGOUTS)
    recorded = {
        "token_id": logout.token_id,
        "subject": logout.subject,
        "sid": logout.sid,
        "issued_at": logout.issued_at,
        "keep_until": keep_until,
    }
    if db.session.scalar(RECORD_LOGOUT, recorded) is None:
        db.session.rollback()
        raise Conflict(error_text("This logout token was accepted before."), "logout_token_reused")
    named = {"issuer": logout.issuer, "subject": logout.subject, "sid": logout.sid}
    return _end(END_BY_PROVIDER, named, "provider", actor)


def _end(statement: Any, values: dict[str, Any], why: str, actor: Actor) -> int:
    ended = fetch_all(statement, **values)
    entries = []
    for row in ended:
        owner = audit_log.name_person(row["issuer"], row["subject"])
        changes = {"why": why} | ({"person": owner} if owner != actor.name else {})
        entries.append((row["id"], changes))
    audit_log.record_changes(actor, "ended", "session", entries)
    db.session.commit()
    for row in ended:
        log.info("admin.session_ended", session_id=row["id"], why=why)
    return len(ended)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
