"""Checks an open session against the provider: whether the person still has the role.

A refresh token is used where the provider gave one, otherwise the userinfo endpoint for as long as
the access token is valid. A provider that cannot be reached ends no session: people need the
admin UI most during an outage.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
import structlog
from authlib.integrations.base_client import OAuthError
from flask import current_app, g
from sqlalchemy.exc import SQLAlchemyError

from api.admin.claims import has_role_claim, read_role
from api.admin.openid_client import (
    fetch_userinfo,
    load_provider,
    open_tokens,
    parse_id_token,
    seal_tokens,
)
from api.db import db
from api.errors import NotFound
from api.people import sessions

log = structlog.get_logger()

REFUSED_STATUS = (401, 403)


class _Refused(Exception):
    """The provider no longer knows the person's session, or the person."""


def check_session(session_id: int, subject: str, role: str) -> str | None:
    """Return the role that the person has now; None if the session ends.

    One request in CHECK_SECONDS asks the provider; those beside it go on with the known role.
    """
    try:
        sealed = sessions.claim_check(session_id)
    except SQLAlchemyError:  # a read-only server, for example
        db.session.rollback()
        return role
    if sealed is None:
        return role
    actor = sessions.provider_actor(g.request_id)
    try:
        found, kept = _ask_provider(open_tokens(sealed), subject, role)
    except _Refused:
        _end(session_id, "provider")
        return None
    except Exception as error:  # of whatever kind: the answer is the provider's
        log.warning(
            "admin.role_unchecked", error_class=type(error).__name__, error=str(error)[:200]
        )
        return role
    if found is None:
        _end(session_id, "role_removed")
        return None
    if not sessions.record_check(session_id, role, found, kept or sealed, actor):
        return None
    return found


def _end(session_id: int, why: str) -> None:
    with suppress(NotFound):  # ended meanwhile
        sessions.end_session(session_id, why, sessions.provider_actor(g.request_id))


def _ask_provider(
    tokens: dict[str, Any], subject: str, role: str
) -> tuple[str | None, bytes | None]:
    """Return the present role, and the new tokens to keep. Raise _Refused or another exception."""
    client = load_provider()
    source = tokens.get("role_source", "")
    if tokens.get("refresh_token"):
        token = _refresh(client, tokens["refresh_token"])
        claims: Mapping[str, Any] = {}
        if token.get("id_token"):
            claims = parse_id_token(client, token)
            if claims.get("sub") != subject:
                raise _Refused
        states_role = bool(claims)
        if not has_role_claim(claims, current_app.config["OIDC_ROLE_CLAIM"]):
            more = fetch_userinfo(client, token, subject)
            claims = more or claims
            states_role = states_role or (source == "userinfo" and bool(more))
        return _read_role(claims, states_role, role), seal_tokens({**tokens, **token}, source)
    if not tokens.get("access_token") or (tokens.get("expires_at") or 0) <= time.time():
        return role, None
    try:
        claims = fetch_userinfo(client, tokens, subject)
    except requests.HTTPError as error:
        if error.response.status_code in REFUSED_STATUS:
            raise _Refused from None
        raise
    return _read_role(claims, source == "userinfo" and bool(claims), role), None


def _read_role(claims: Mapping[str, Any], states_role: bool, role: str) -> str | None:
    """Return the role in the claims; the known one where claims of this kind do not state it."""
    claim = current_app.config["OIDC_ROLE_CLAIM"]
    if states_role or has_role_claim(claims, claim):
        return read_role(claims, claim)
    return role


def _refresh(client: Any, refresh_token: str) -> dict[str, Any]:
    metadata = client.server_metadata
    with client._get_oauth_client(**metadata) as session:
        try:
            token: dict[str, Any] = session.refresh_token(
                metadata["token_endpoint"], refresh_token=refresh_token
            )
        except OAuthError as error:
            if error.error == "invalid_grant":
                raise _Refused from None
            raise
    return token
