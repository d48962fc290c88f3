"""API tokens, for administrators: listed, made (the secret is shown once), revoked."""

from datetime import UTC, datetime, timedelta
from inspect import unwrap
from typing import Any

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask_babel import gettext as _
from pydantic import ValidationError
from sqlalchemy import select
from werkzeug.wrappers import Response

from api.admin.auth import require_scope
from api.admin.forms.field_errors import from_resource, from_schema, text_of
from api.db import db
from api.errors import Conflict, InvalidFields, NotFound
from api.tokens.routes import create_token, revoke_token
from api.tokens.schemas import NewToken
from shared.db.auth_models import ApiToken
from shared.domain.scopes import Scope

blueprint = Blueprint("tokens", __name__)

create = unwrap(create_token)
revoke = unwrap(revoke_token)
LIVES = ("30", "90", "365", "")


@blueprint.get("/tokens")
@require_scope(Scope.ADMIN)
def index() -> str:
    return _page()


@blueprint.post("/tokens")
@require_scope(Scope.ADMIN)
def make() -> Response | tuple[str, int]:
    fields = {name: text_of(request.form, name) for name in ("name", "scope", "days")}
    days = fields["days"] if fields["days"] in LIVES else "90"
    ends = (datetime.now(UTC) + timedelta(days=int(days))).isoformat() if days else None
    document = {"name": fields["name"], "scope": fields["scope"], "expires_at": ends}
    try:
        made, _status, _headers = create(NewToken.model_validate(document))
    except ValidationError as error:
        return _page(fields, from_schema(error)), 422
    except InvalidFields as problem:
        return _page(fields, from_resource(problem)), 422
    except Conflict:
        db.session.rollback()
        taken = {"name": _("A token of this name exists; revoke it or choose another name.")}
        return _page(fields, taken), 409
    # Shown in the answer itself: a redirect would have to keep the secret somewhere.
    return make_response(_page(secret=made["token"]))


@blueprint.post("/tokens/<id:token_id>/revoke")
@require_scope(Scope.ADMIN)
def end(token_id: int) -> Response:
    try:
        revoke(token_id)
    except NotFound:
        flash(_("This token was revoked already."), "warning")
    else:
        flash(_("The token is revoked. It stops working within 5 seconds."), "success")
    return redirect(url_for("admin.tokens.index"), 303)


def _page(
    fields: dict[str, str] | None = None,
    faults: dict[str, str] | None = None,
    secret: str | None = None,
) -> str:
    found: Any = db.session.scalars(select(ApiToken).order_by(ApiToken.id.desc()).limit(200)).all()
    return render_template(
        "admin/tokens.html",
        tokens=found,
        fields=fields or {"name": "", "scope": "read", "days": "90"},
        faults=faults or {},
        secret=secret,
        now=datetime.now(UTC),
    )
