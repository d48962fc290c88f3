"""API tokens, for administrators: list them, create one (its secret is shown once), revoke one."""

from datetime import timedelta

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from werkzeug.wrappers import Response

from api.actor import current_actor
from api.admin.auth import require_scope
from api.admin.forms.field_errors import errors_from_schema, errors_from_service, field_text
from api.db import database_now
from api.errors import Conflict, InvalidFields, NotFound
from api.tokens import service
from api.tokens.schemas import NewToken
from shared.domain.scopes import Scope

blueprint = Blueprint("tokens", __name__)

# Days that a new token is valid for; the empty choice means no limit.
LIFETIMES = ("30", "90", "365", "")
MAX_LISTED = 200


@blueprint.get("/tokens")
@require_scope(Scope.ADMIN)
def list_tokens() -> str:
    return _render_page()


@blueprint.post("/tokens")
@require_scope(Scope.ADMIN)
def create_token() -> Response | tuple[str, int]:
    fields = {name: field_text(request.form, name) for name in ("name", "scope", "days")}
    days = fields["days"] if fields["days"] in LIFETIMES else "90"
    expires_at = (database_now() + timedelta(days=int(days))).isoformat() if days else None
    document = {"name": fields["name"], "scope": fields["scope"], "expires_at": expires_at}
    try:
        body = NewToken.model_validate(document)
        _token, secret = service.create_token(
            body.name, body.scope, body.expires_at, current_actor()
        )
    except ValidationError as error:
        return _render_page(fields, errors_from_schema(error)), 422
    except InvalidFields as error:
        return _render_page(fields, errors_from_service(error)), 422
    except Conflict:
        taken = {"name": _("A token of this name exists; revoke it or choose another name.")}
        return _render_page(fields, taken), 409
    # No redirect: it would require storing the secret.
    return make_response(_render_page(secret=secret))


@blueprint.post("/tokens/<id:token_id>/revoke")
@require_scope(Scope.ADMIN)
def revoke_token(token_id: int) -> Response:
    try:
        service.revoke_token(token_id, current_actor())
    except NotFound:
        flash(_("This token was revoked already."), "warning")
    else:
        flash(_("The token is revoked. It stops working within 5 seconds."), "success")
    return redirect(url_for(".list_tokens"), 303)


def _render_page(
    fields: dict[str, str] | None = None,
    errors: dict[str, str] | None = None,
    secret: str | None = None,
) -> str:
    return render_template(
        "admin/tokens.html",
        tokens=service.list_newest_tokens(MAX_LISTED),
        fields=fields or {"name": "", "scope": "read", "days": "90"},
        errors=errors or {},
        secret=secret,
        now=database_now(),
    )
