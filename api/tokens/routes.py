"""API tokens: made, listed, revoked. The secret is shown once, when it is made."""

from datetime import datetime
from typing import Any

import structlog
from flask import Blueprint, current_app
from psycopg2 import errors
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from api import audit_log
from api.actor import Actor, current_actor
from api.db import database_now, db
from api.errors import Conflict, FieldError, InvalidFields, NotFound
from api.http.bearer_auth import (
    PREFIX_LENGTH,
    TokenAuthenticator,
    generate_secret,
    hash_secret,
)
from api.http.pagination import build_page
from api.openapi.operation import operation
from api.schemas.base import PageQuery
from api.tokens.schemas import (
    NewToken,
    NewTokenAnswer,
    TokenPage,
    present_token,
)
from shared.db.auth_models import ApiToken
from shared.domain.scopes import Scope

log = structlog.get_logger()
blueprint = Blueprint("tokens", __name__)


@blueprint.post("/tokens")
@operation(
    "tokens",
    response=NewTokenAnswer,
    status=201,
    description="The token, with its secret: keep it, it is not shown again.",
    body=NewToken,
    problems=(409,),
    scope=Scope.ADMIN,
)
def create_token(body: NewToken) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Create an API token

    The secret is in `token`, here and never again: only its SHA-256 is kept. A name belongs to one
    token at a time, until that is revoked.
    """
    token, secret = issue(current_actor(), body.name, body.scope, body.expires_at)
    log.info("token.created", token_id=token.id, name=token.name, scope=token.scope)
    headers = {"Location": "/api/v1/tokens", "Cache-Control": "no-store"}
    return present_token(token) | {"token": secret}, 201, headers


@blueprint.get("/tokens")
@operation(
    "tokens",
    response=TokenPage,
    description="A page of tokens.",
    query=PageQuery,
    scope=Scope.ADMIN,
)
def list_tokens(query: PageQuery) -> dict[str, Any]:
    """List API tokens

    By id, the oldest first; with those that have expired or were revoked. `last_used_at` is exact
    to a minute. The token in the setting `API_BOOTSTRAP_TOKEN` is not among them.
    """
    found = select(ApiToken).where(ApiToken.id > query.cursor).order_by(ApiToken.id)
    rows = db.session.scalars(found.limit(query.limit + 1)).all()
    return build_page(rows, query.limit, present_token, lambda token: token.id)


@blueprint.delete("/tokens/<id:token_id>")
@operation(
    "tokens",
    response=None,
    status=204,
    description="The token is revoked.",
    problems=(404,),
    scope=Scope.ADMIN,
)
def revoke_token(token_id: int) -> tuple[str, int]:
    """Revoke an API token

    It stops working within 5 seconds, for good. It stays in the list, and its name is free again.
    """
    found = select(ApiToken).where(ApiToken.id == token_id, ApiToken.revoked_at.is_(None))
    token = db.session.scalar(found.with_for_update(key_share=True))
    if token is None:
        raise NotFound("There is no such token, or it is revoked already.")
    revoke(current_actor(), token)
    log.info("token.revoked", token_id=token.id, name=token.name)
    remembered: TokenAuthenticator = current_app.extensions["tokens"]
    remembered.forget()
    return "", 204


def issue(
    actor: Actor, name: str, scope: Scope, expires_at: datetime | None
) -> tuple[ApiToken, str]:
    """Make and commit a token; return it with its secret, which is kept nowhere."""
    if expires_at is not None and expires_at <= database_now():
        raise InvalidFields(FieldError("has passed already", "past", "/expires_at"))
    secret = generate_secret()
    token = ApiToken(
        name=name,
        scope=scope,
        prefix=secret[:PREFIX_LENGTH],
        digest=hash_secret(secret),
        expires_at=expires_at,
    )
    db.session.add(token)
    try:
        db.session.flush()
    except IntegrityError as error:
        if not isinstance(error.orig, errors.UniqueViolation):
            raise
        raise Conflict("A token of this name exists; revoke it or choose another name.") from None
    audit_log.record_change(actor, "created", "token", token.id, {"name": name, "scope": scope})
    db.session.commit()
    db.session.refresh(token)
    return token, secret


def revoke(actor: Actor, token: ApiToken) -> None:
    """End and commit a token."""
    token.revoked_at = database_now()
    audit_log.record_change(actor, "revoked", "token", token.id, {"name": token.name})
    db.session.commit()
