"""REST routes of API tokens: create, list and revoke them."""

from typing import Any

from flask import Blueprint

from api.actor import current_actor
from api.http.idempotency import read_idempotency_key
from api.http.pagination import build_page
from api.openapi.operation import operation
from api.schemas.base import ListQuery
from api.tokens import service
from api.tokens.schemas import CreatedToken, NewToken, TokenPage, present_token
from shared.domain.scopes import Scope

blueprint = Blueprint("tokens", __name__)


@blueprint.post("/tokens")
@operation(
    "tokens",
    response=CreatedToken,
    status=201,
    description="The token, with its secret: keep it, it is not shown again.",
    body=NewToken,
    problems=(409,),
    scope=Scope.ADMIN,
    idempotent=True,
)
def create_token(body: NewToken) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Create an API token

    The secret is in `token`, here and never again: only its SHA-256 is kept. A name belongs to one
    token at a time, until that is revoked. With the header `Idempotency-Key`, a repetition creates
    nothing; as the secret is not stored, it is answered with 409 and the token's id.
    """
    actor = current_actor()
    token, secret = service.create_token(
        body.name, body.scope, body.expires_at, actor, read_idempotency_key(body, actor)
    )
    headers = {"Location": "/api/v1/tokens", "Cache-Control": "no-store"}
    return present_token(token) | {"token": secret}, 201, headers


@blueprint.get("/tokens")
@operation(
    "tokens",
    response=TokenPage,
    description="A page of tokens.",
    query=ListQuery,
    scope=Scope.ADMIN,
)
def list_tokens(query: ListQuery) -> dict[str, Any]:
    """List API tokens

    By id, the oldest first, or with `order=desc` the newest; with those that have expired or were
    revoked. `last_used_at` is exact to a minute. The token in the setting `API_BOOTSTRAP_TOKEN` is
    not among them.
    """
    found = service.list_tokens(query.page())
    return build_page(found, query.limit, present_token, lambda token: token.id)


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
    service.revoke_token(token_id, current_actor())
    return "", 204
