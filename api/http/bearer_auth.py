"""Bearer authentication: every request below /api/v1 needs a token, even for unknown addresses."""

from collections.abc import Callable
from typing import Any

import structlog
from flask import Flask, g, request

from api.actor import Actor
from api.http.problems import Forbidden, Unauthorized
from api.limits.request_rates import RequestRates
from shared.domain.error_texts import error_text
from shared.domain.scopes import Scope

PROTECTED_PATH = "/api/v1"


def required_scope(view: Any, method: str) -> Scope:
    """Return the scope that a view requires; a view without `@operation` requires `admin`."""
    default = Scope.READ if method in ("GET", "HEAD", "OPTIONS") else Scope.WRITE
    return getattr(view, "scope", Scope.ADMIN) or default


def read_bearer_token() -> str:
    """Return the token of the request's Authorization header; an empty text without one."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def init_bearer_auth(
    app: Flask, authenticate: Callable[[str], Actor | None], rates: RequestRates
) -> None:
    """Require a token that `authenticate` accepts, the scope of the view, and a permitted rate."""

    def require_token() -> None:
        if request.path != PROTECTED_PATH and not request.path.startswith(f"{PROTECTED_PATH}/"):
            return
        token = read_bearer_token()
        if not token:
            raise Unauthorized(
                error_text("Send an API token in the header: Authorization: Bearer TOKEN."),
                code="token_missing",
                headers={"WWW-Authenticate": "Bearer"},
            )
        actor = authenticate(token)
        if actor is None:
            rates.count_unknown_token()
            raise Unauthorized(
                error_text("The API token is not valid: it is unknown, expired or revoked."),
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        g.actor = actor._replace(request_id=g.request_id)
        structlog.contextvars.bind_contextvars(actor=actor.name, actor_id=actor.token_id)
        rates.count_request(actor)
        if request.endpoint is not None:
            view = app.view_functions[request.endpoint]
            _require_scope(actor, required_scope(view, request.method))

    app.before_request(require_token)


def _require_scope(actor: Actor, scope: Scope) -> None:
    if not actor.scope.includes(scope):
        raise Forbidden(
            error_text(
                "The API token's scope is %(scope)s; this takes the scope %(required)s.",
                scope=actor.scope,
                required=scope,
            ),
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
        )
