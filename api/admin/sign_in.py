"""Signs people in at an OpenID provider (authorization code with PKCE), and out of it again."""

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
    LIFE,
    ROLES,
    Person,
    current_person,
    end_session,
    person_actor,
    public,
    start_session,
)
from api.audit_log.service import record_change
from api.db import db
from shared.config.settings import ApiSettings

log = structlog.get_logger()
blueprint = Blueprint("signin", __name__)

# Only signatures that nobody but the provider can make.
ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}
LEEWAY = 10  # seconds by which our clock and the provider's may differ
TIMEOUT = 5.0
FAILURES = (
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
            "default_timeout": TIMEOUT,
            **({} if secret else {"token_endpoint_auth_method": "none"}),
        },
    )
    app.extensions["oidc"] = oauth.provider
    parts = urlsplit(issuer)
    app.config.update(
        OIDC_ISSUER=issuer,
        OIDC_ROLE_CLAIM=settings.oidc_role_claim,
        OIDC_ORIGINS=f" {parts.scheme}://{parts.netloc}",
        PERMANENT_SESSION_LIFETIME=LIFE,
    )


def _provider() -> Any:
    """The client, with what the provider says about itself, once that is known to be sound."""
    client = current_app.extensions["oidc"]
    metadata = client.load_server_metadata()
    if metadata.get("issuer", "").rstrip("/") != current_app.config["OIDC_ISSUER"].rstrip("/"):
        client.server_metadata.pop("_loaded_at", None)
        raise ValueError("the provider calls itself by another name than OIDC_ISSUER")
    offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = sorted(ALGORITHMS.intersection(offered))
    return client


@blueprint.get("/sign-in")
@public
def welcome() -> Response | str:
    if current_person() is not None:
        return redirect(_inside(request.args.get("next")))
    return render_template("admin/signin.html", next=_inside(request.args.get("next")))


@blueprint.post("/sign-in")
@public
def leave_for_provider() -> Response | tuple[str, int]:
    onward = _inside(request.form.get("next"))
    session.clear()
    session["next"] = onward
    callback = current_app.config["PUBLIC_URL"] + url_for("admin.signin.come_back")
    try:
        found: Response = _provider().authorize_redirect(callback)
    except FAILURES as error:
        return _refuse(
            "provider_away",
            _("The sign-in service cannot be reached. Try again in a moment."),
            error,
            503,
        )
    return found


@blueprint.get("/sign-in/callback")
@public
def come_back() -> Response | tuple[str, int]:
    issuer = current_app.config["OIDC_ISSUER"].rstrip("/")
    try:
        client = _provider()
        token = client.authorize_access_token(
            claims_options={
                "iss": {"essential": True, "values": [issuer, issuer + "/"]},
                "aud": {"essential": True, "values": [client.client_id]},
            },
            leeway=LEEWAY,
        )
        claims = dict(token.get("userinfo") or {})
        if not claims:
            raise ValueError("the provider sent no ID token")
        role = role_of(claims) or role_of(_asked(client, token, claims["sub"]))
    except FAILURES as error:
        return _refuse("refused", _("The sign-in did not succeed. Please start again."), error, 400)
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
    onward = _inside(session.get("next"))
    person = Person(str(claims["sub"]), name[:200], str(claims.get("email", ""))[:200], role)
    start_session(person, str(token.get("id_token", "")))
    record_change(person_actor(person), "signed_in", "person", changes={"role": role})
    db.session.commit()
    log.info("admin.signed_in", subject=person.subject, role=role)
    return redirect(onward)


@blueprint.post("/sign-out")
@public
def leave() -> Response:
    hint = session.get("id_token")
    end_session()
    log.info("admin.signed_out")
    home = current_app.config["PUBLIC_URL"] + url_for("admin.signin.welcome")
    try:
        client = _provider()
        made = client.create_logout_url(home, id_token_hint=hint, client_id=client.client_id)
    except FAILURES:
        return redirect(home)  # it has no such address, or is away: here, at least, all is ended
    return redirect(made["url"])


def role_of(claims: Mapping[str, Any]) -> str | None:
    """The most that the role claim gives: a name, or a path through objects; a value or a list."""
    wanted = current_app.config["OIDC_ROLE_CLAIM"]
    found: Any = claims.get(wanted)
    if found is None:
        found = claims
        for step in wanted.split("."):
            found = found.get(step) if isinstance(found, Mapping) else None
    given = found if isinstance(found, list) else [found]
    held = [role for role in ROLES if role in given]
    return held[-1] if held else None


def _asked(client: Any, token: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """The claims at the userinfo endpoint, for providers that keep the ID token small."""
    if not client.server_metadata.get("userinfo_endpoint"):
        return {}
    claims: Mapping[str, Any] = client.userinfo(token=token)
    return claims if claims.get("sub") == subject else {}


def _inside(address: object) -> str:
    """An address of these pages, and of nowhere else."""
    if isinstance(address, str) and address.startswith("/admin/") and "\\" not in address:
        return address
    return "/admin/"


def _refuse(what: str, says: str, error: Exception, status: int) -> tuple[str, int]:
    log.warning(f"admin.sign_in_{what}", error_class=type(error).__name__, error=str(error)[:200])
    session.clear()
    return render_template("admin/signin.html", problem=says, next="/admin/"), status
