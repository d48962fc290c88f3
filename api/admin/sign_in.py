"""Sign-in and sign-out at an OpenID provider (authorization code flow with PKCE)."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests
import structlog
from flask import (
    Blueprint,
    current_app,
    g,
    jsonify,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask import Response as FlaskResponse
from flask_babel import gettext as _
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.wrappers import Response

from api.admin.auth import (
    keep_session,
    make_actor,
    person_actor,
    public,
    safe_redirect_target,
    without_csrf_token,
)
from api.admin.claims import (
    CLOCK_LEEWAY_SECONDS,
    list_claim_names,
    list_roles,
    read_identity,
    read_instant,
    read_role,
)
from api.admin.openid_client import (
    claims_options,
    fetch_userinfo,
    load_provider,
    open_tokens,
    parse_logout_token,
    seal_tokens,
)
from api.db import db
from api.errors import Conflict, NotFound
from api.limits.request_rates import request_rates
from api.people import sessions
from api.people.sessions import SessionEnded

log = structlog.get_logger()
blueprint = Blueprint("signin", __name__)

STATE_PREFIX = "_state_"  # of what authlib keeps in the cookie during a sign-in


@blueprint.get("/sign-in")
@public
def show_sign_in() -> Response | str:
    if g.person is not None:
        return redirect(safe_redirect_target(request.args.get("next")))
    return render_template(
        "admin/signin.html",
        next=safe_redirect_target(request.args.get("next")),
        signed_out_here=request.args.get("signed_out") == "here",
    )


@blueprint.post("/sign-in")
@public
def start_sign_in() -> Response | tuple[str, int]:
    request_rates().count_sign_in()
    _forget_sign_ins()
    session["next"] = safe_redirect_target(request.form.get("next"))
    callback = current_app.config["PUBLIC_URL"] + url_for("admin.signin.finish_sign_in")
    try:
        found: Response = load_provider(fresh=True).authorize_redirect(callback)
    except Exception as error:  # of whatever kind: the answer is the provider's
        return _reject_unreachable(error)
    return found


@blueprint.get("/sign-in/callback")
@public
def finish_sign_in() -> Response | tuple[str, int]:
    """Start a session for a sign-in that this browser began.

    Any page can send a browser here. So a request that fails leaves an open session as it is.
    """
    request_rates().count_sign_in()
    issuer = current_app.config["OIDC_ISSUER"]
    try:
        _require_own_state(request.args.get("state", ""))
        client = load_provider()
        token = client.authorize_access_token(
            claims_options=claims_options(client), leeway=CLOCK_LEEWAY_SECONDS
        )
        claims = dict(token.get("userinfo") or {})
        if not claims:
            raise ValueError("the provider sent no ID token")
        identity = read_identity(issuer, claims)
        issued_at = read_instant(claims, "iat")
        role, source, userinfo = _find_role(client, token, claims)
    except requests.exceptions.InvalidJSONError as error:
        return _reject("refused", _("The sign-in did not succeed. Please start again."), error, 400)
    except requests.RequestException as error:
        return _reject_unreachable(error)
    except Exception as error:  # of whatever kind: the answer is the provider's
        return _reject("refused", _("The sign-in did not succeed. Please start again."), error, 400)
    if role is None:
        claim = current_app.config["OIDC_ROLE_CLAIM"]
        log.warning(
            "admin.no_role",
            subject=identity.subject,
            role_claim=claim,
            roles=list_roles(claims, claim) or list_roles(userinfo, claim),
            id_token_claims=list_claim_names(claims),
            userinfo_claims=list_claim_names(userinfo),
        )
        hint = _(
            "You have signed in, but have no role here. Ask an administrator for one: "
            "viewer, operator or admin."
        )
        page = render_template(
            "admin/signin.html", problem=hint, next="/admin/", name=identity.name
        )
        return page, 403
    target = safe_redirect_target(session.get("next"))
    actor = make_actor(issuer, identity.subject, role)
    sealed = seal_tokens(token, source)
    try:
        key = sessions.start_session(identity, role, sealed, issued_at, actor)
    except SessionEnded as error:
        return _reject("refused", _("The sign-in did not succeed. Please start again."), error, 400)
    if g.person is not None:
        _end_session("replaced")
    keep_session(key)
    log.info("admin.signed_in", subject=identity.subject, role=role)
    return redirect(target)


@blueprint.post("/sign-out")
@public
def sign_out() -> Response:
    hint = None
    was_signed_in = "key" in session
    if g.person is not None:
        try:
            hint = open_tokens(sessions.read_tokens(g.person.session_id)).get("id_token")
            _end_session("signed_out")
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("admin.end_not_kept", error_class=type(error).__name__)
    session.clear()
    log.info("admin.signed_out")
    home = current_app.config["PUBLIC_URL"] + url_for("admin.signin.show_sign_in")
    if not was_signed_in:  # a stranger must not make this service ask the provider
        return redirect(home)
    try:
        client = load_provider(fresh=True)
        logout = client.create_logout_url(home, id_token_hint=hint, client_id=client.client_id)
    except Exception as error:  # no logout at the provider; the session here has ended
        log.warning("admin.sign_in_provider_away", error_class=type(error).__name__)
        return redirect(f"{home}?signed_out=here")
    return redirect(logout["url"])


@blueprint.post("/backchannel-logout")
@public
@without_csrf_token
def end_by_provider() -> tuple[FlaskResponse, int]:
    """End the sessions that a logout token of the provider names (Back-Channel Logout 1.0)."""
    try:
        logout = parse_logout_token(request.form.get("logout_token", ""))
    except Exception as error:  # of whatever kind: the token is the caller's
        reason = str(error)[:200]
        log.warning("admin.logout_token_refused", error_class=type(error).__name__, error=reason)
        return _logout_problem("The logout token is not valid.")
    try:
        sessions.end_by_provider(logout, sessions.provider_actor(g.request_id))
    except Conflict as error:
        log.warning("admin.logout_token_refused", error_class="Conflict", error=error.detail)
        return _logout_problem(error.detail)
    return jsonify(), 200


def _logout_problem(description: str) -> tuple[FlaskResponse, int]:
    return jsonify(error="invalid_request", error_description=description), 400


def _find_role(
    client: Any, token: Mapping[str, Any], claims: Mapping[str, Any]
) -> tuple[str | None, str, Mapping[str, Any]]:
    """Return the role, which of the two states it, and the claims of the userinfo endpoint.

    The ID token is read first; the endpoint is asked if there is no role in it.
    """
    claim = current_app.config["OIDC_ROLE_CLAIM"]
    role = read_role(claims, claim)
    if role is not None:
        return role, "id_token", {}
    userinfo = fetch_userinfo(client, token, claims["sub"])
    return read_role(userinfo, claim), "userinfo", userinfo


def _end_session(why: str) -> None:
    with suppress(NotFound):  # ended meanwhile
        sessions.end_session(g.person.session_id, why, person_actor(g.person))


def _require_own_state(state: str) -> None:
    """Refuse a sign-in that this browser did not begin, before the provider is asked anything.

    Raises ValueError.
    """
    if not any(name.startswith(STATE_PREFIX) and name.endswith(f"_{state}") for name in session):
        raise ValueError("this browser began no such sign-in")


def _forget_sign_ins() -> None:
    """Drop what earlier sign-ins left in the cookie, which holds 4 KB."""
    for name in [each for each in session if each.startswith(STATE_PREFIX)]:
        session.pop(name)


def _reject_unreachable(error: Exception) -> tuple[str, int]:
    message = _("The sign-in service cannot be reached. Try again in a moment.")
    return _reject("provider_away", message, error, 503)


def _reject(event: str, message: str, error: Exception, status: int) -> tuple[str, int]:
    log.warning(f"admin.sign_in_{event}", error_class=type(error).__name__, error=str(error)[:200])
    return render_template("admin/signin.html", problem=message, next="/admin/"), status
