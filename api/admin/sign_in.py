"""Sign-in and sign-out at an OpenID provider (authorization code flow with PKCE)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.flask_client import OAuth
from flask import (
    Blueprint,
    Flask,
    current_app,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask_babel import gettext as _
from joserfc.errors import JoseError
from werkzeug.wrappers import Response

from api.admin.auth import (
    ROLES,
    SESSION_SECONDS,
    Person,
    current_person,
    end_session,
    person_actor,
    public,
    safe_redirect_target,
    start_session,
)
from api.audit_log.service import record_change
from api.db import db
from api.limits.request_rates import request_rates
from shared.config.settings import ApiSettings

log = structlog.get_logger()
blueprint = Blueprint("signin", __name__)

# Asymmetric signatures only: no other party can create them.
ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}
CLOCK_LEEWAY_SECONDS = 10
PROVIDER_TIMEOUT_SECONDS = 5.0
PROVIDER_ERRORS = (
    AuthlibBaseError,
    JoseError,
    requests.RequestException,
    ValueError,
    RuntimeError,
    KeyError,
)


def init_signin(app: Flask, settings: ApiSettings) -> None:
    issuer = settings.oidc_issuer or ""
    secret = settings.oidc_client_secret
    oauth = OAuth(app)
    oauth.register(
        "provider",
        client_id=settings.oidc_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        server_metadata_url=issuer.rstrip("/") + "/.well-known/openid-configuration",
        client_kwargs={
            "scope": settings.oidc_scopes,
            "code_challenge_method": "S256",
            "default_timeout": PROVIDER_TIMEOUT_SECONDS,
            **({} if secret else {"token_endpoint_auth_method": "none"}),
        },
    )
    app.extensions["oidc"] = oauth.provider
    parts = urlsplit(issuer)
    app.config.update(
        OIDC_ISSUER=issuer,
        OIDC_ROLE_CLAIM=settings.oidc_role_claim,
        OIDC_ORIGINS=f" {parts.scheme}://{parts.netloc}",
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
    )


def _load_provider() -> Any:
    """Return the client with the provider's metadata. Raise ValueError for another issuer."""
    client = current_app.extensions["oidc"]
    metadata = client.load_server_metadata()
    if metadata.get("issuer", "").rstrip("/") != current_app.config["OIDC_ISSUER"].rstrip("/"):
        client.server_metadata.pop("_loaded_at", None)
        raise ValueError("the provider calls itself by another name than OIDC_ISSUER")
    algorithms = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = sorted(ALGORITHMS.intersection(algorithms))
    return client


@blueprint.get("/sign-in")
@public
def show_sign_in() -> Response | str:
    if current_person() is not None:
        return redirect(safe_redirect_target(request.args.get("next")))
    return render_template("admin/signin.html", next=safe_redirect_target(request.args.get("next")))


@blueprint.post("/sign-in")
@public
def start_sign_in() -> Response | tuple[str, int]:
    request_rates().count_sign_in()
    target = safe_redirect_target(request.form.get("next"))
    session.clear()
    session["next"] = target
    callback = current_app.config["PUBLIC_URL"] + url_for("admin.signin.finish_sign_in")
    try:
        found: Response = _load_provider().authorize_redirect(callback)
    except PROVIDER_ERRORS as error:
        return _reject(
            "provider_away",
            _("The sign-in service cannot be reached. Try again in a moment."),
            error,
            503,
        )
    return found


@blueprint.get("/sign-in/callback")
@public
def finish_sign_in() -> Response | tuple[str, int]:
    request_rates().count_sign_in()
    issuer = current_app.config["OIDC_ISSUER"].rstrip("/")
    try:
        client = _load_provider()
        token = client.authorize_access_token(
            claims_options={
                "iss": {"essential": True, "values": [issuer, issuer + "/"]},
                "aud": {"essential": True, "values": [client.client_id]},
            },
            leeway=CLOCK_LEEWAY_SECONDS,
        )
        claims = dict(token.get("userinfo") or {})
        if not claims:
            raise ValueError("the provider sent no ID token")
        role = read_role(claims) or read_role(_fetch_userinfo(client, token, claims["sub"]))
    except PROVIDER_ERRORS as error:
        return _reject("refused", _("The sign-in did not succeed. Please start again."), error, 400)
    name = str(
        claims.get("name")
        or claims.get("preferred_username")
        or claims.get("email")
        or claims["sub"]
    )
    if role is None:
        log.warning("admin.no_role", subject=claims["sub"])
        session.clear()
        hint = _(
            "You are known, but have no role here. Ask an administrator to give you one: "
            "viewer, operator or admin."
        )
        return render_template("admin/signin.html", problem=hint, next="/admin/", name=name), 403
    target = safe_redirect_target(session.get("next"))
    person = Person(str(claims["sub"]), name[:200], str(claims.get("email", ""))[:200], role)
    start_session(person, str(token.get("id_token", "")))
    record_change(person_actor(person), "signed_in", "person", changes={"role": role})
    db.session.commit()
    log.info("admin.signed_in", subject=person.subject, role=role)
    return redirect(target)


@blueprint.post("/sign-out")
@public
def sign_out() -> Response:
    hint = session.get("id_token")
    end_session()
    log.info("admin.signed_out")
    home = current_app.config["PUBLIC_URL"] + url_for("admin.signin.show_sign_in")
    try:
        client = _load_provider()
        logout = client.create_logout_url(home, id_token_hint=hint, client_id=client.client_id)
    except PROVIDER_ERRORS:
        return redirect(home)  # no logout at the provider; the session here has ended
    return redirect(logout["url"])


def read_role(claims: Mapping[str, Any]) -> str | None:
    """Return the highest role in the role claim, which holds a role or a list of roles.

    The setting is the name of the claim, or a dotted path through nested objects.
    """
    claim = current_app.config["OIDC_ROLE_CLAIM"]
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for name in claim.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    values = value if isinstance(value, list) else [value]
    roles = [role for role in ROLES if role in values]
    return roles[-1] if roles else None


def _fetch_userinfo(client: Any, token: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """Fetch the claims of the userinfo endpoint: some providers keep the ID token small."""
    if not client.server_metadata.get("userinfo_endpoint"):
        return {}
    claims: Mapping[str, Any] = client.userinfo(token=token)
    return claims if claims.get("sub") == subject else {}


def _reject(event: str, message: str, error: Exception, status: int) -> tuple[str, int]:
    log.warning(f"admin.sign_in_{event}", error_class=type(error).__name__, error=str(error)[:200])
    session.clear()
    return render_template("admin/signin.html", problem=message, next="/admin/"), status
