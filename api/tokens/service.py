"""API tokens: create, list and revoke them. REST routes, admin views and commands call this."""

from collections.abc import Sequence
from datetime import datetime

import structlog
from psycopg2 import errors
from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import IntegrityError

from api.actor import Actor
from api.audit_log import service as audit_log
from api.cursors import Page
from api.db import database_now, db
from api.errors import Conflict, FieldError, InvalidFields, NotFound
from api.idempotency import AnswerNotStored, IdempotencyKey
from api.tokens.authenticator import PREFIX_LENGTH, clear_token_cache, generate_secret, hash_secret
from shared.db.auth_models import ApiToken
from shared.domain.error_texts import ErrorText, error_text
from shared.domain.scopes import Scope

log = structlog.get_logger()


def create_token(
    name: str,
    scope: Scope,
    expires_at: datetime | None,
    actor: Actor,
    key: IdempotencyKey | None = None,
) -> tuple[ApiToken, str]:
    """Create and commit a token; return it with its secret, which is stored as a hash only.

    Raise InvalidFields for an `expires_at` in the past, Conflict if the name is in use,
    AnswerNotStored if an earlier request with `key` created the token.
    """
    if key is not None and (first := key.claim()) is not None:
        raise AnswerNotStored(
            error_text(
                "The first request created token %(id)s; its secret is not stored. "
                "Revoke it, and create another with a new key.",
                id=first["id"],
            )
        )
    if expires_at is not None and expires_at <= database_now():
        raise InvalidFields(FieldError(error_text("has passed already"), "past", "/expires_at"))
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
        db.session.rollback()
        if not isinstance(error.orig, errors.UniqueViolation):
            raise
        raise Conflict(
            error_text("A token of this name exists; revoke it or choose another name."),
            "token_name_taken",
        ) from None
    if key is not None:
        key.store({"id": token.id})
    audit_log.record_change(actor, "created", "token", token.id, {"name": name, "scope": scope})
    db.session.commit()
    db.session.refresh(token)
    if _may_log(actor):
        log.info("token.created", token_id=token.id, name=name, scope=token.scope)
    return token, secret


def list_tokens(page: Page | None = None) -> Sequence[ApiToken]:
    """Return a page of the tokens by id, or all of them, with those that have ended."""
    found = select(ApiToken)
    bounded = found.order_by(ApiToken.id) if page is None else page.bound(found, ApiToken.id)
    return db.session.scalars(bounded).all()


def list_newest_tokens(limit: int) -> Sequence[ApiToken]:
    return db.session.scalars(select(ApiToken).order_by(ApiToken.id.desc()).limit(limit)).all()


def revoke_token(token_id: int, actor: Actor) -> ApiToken:
    """Revoke a token. Raise NotFound if there is none, or if it is revoked already."""
    detail = error_text("There is no such token, or it is revoked already.")
    return _revoke(ApiToken.id == token_id, detail, actor)


def revoke_token_by_name(name: str, actor: Actor) -> ApiToken:
    """Revoke the token that has this name at present. Raise NotFound if there is none."""
    detail = error_text("There is no valid token of this name.")
    return _revoke(ApiToken.name == name, detail, actor)


def _revoke(condition: ColumnElement[bool], not_found_detail: ErrorText, actor: Actor) -> ApiToken:
    found = select(ApiToken).where(condition, ApiToken.revoked_at.is_(None))
    token = db.session.scalar(found.with_for_update(key_share=True))
    if token is None:
        raise NotFound(not_found_detail)
    token.revoked_at = database_now()
    audit_log.record_change(actor, "revoked", "token", token.id, {"name": token.name})
    db.session.commit()
    if _may_log(actor):
        log.info("token.revoked", token_id=token.id, name=token.name)
    clear_token_cache()
    return token


def _may_log(actor: Actor) -> bool:
    """Return False for a command: it writes the secret to stdout, where the log goes as well."""
    return actor.request_id is not None
