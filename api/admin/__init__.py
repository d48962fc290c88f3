"""The admin UI under /admin/: pages for people, who sign in through OpenID Connect.

The pages read and change through the same functions as the API's resources; a person's role counts
as a scope. Without OIDC_ISSUER there is nothing but a page that says how to switch it on.
"""

from pathlib import Path

from flask import Blueprint, Flask, Response, g, render_template, request
from flask_babel import Babel, get_locale
from flask_bootstrap import Bootstrap5
from flask_wtf.csrf import CSRFProtect

from api.admin import errors, shown
from api.admin.clients import clients
from api.admin.compose import compose
from api.admin.dashboard import dashboard
from api.admin.live import init_live, live
from api.admin.mailings import mailings
from api.admin.preferences import choose_language, choose_zone, preferences
from api.admin.security import demand_person, secure_headers, settle_host
from api.admin.signin import init_signin, signin
from api.admin.tokens import tokens
from shared.settings import ApiSettings

csrf = CSRFProtect()
TRANSLATIONS = Path(__file__).parent / "translations"


def init_admin(app: Flask, settings: ApiSettings) -> None:
    admin = Blueprint(
        "admin",
        __name__,
        url_prefix="/admin",
        template_folder="templates",
        static_folder="static",
    )
    admin.get("/")(dashboard) if settings.oidc_issuer else admin.get("/")(_off)
    if settings.oidc_issuer:
        _configure(app, settings)
        admin.before_request(settle_host)
        admin.before_request(demand_person)
        admin.before_request(csrf.protect)
        for part in (signin, preferences, mailings, compose, clients, tokens, live):
            admin.register_blueprint(part)
        init_signin(app, settings)
        init_live(app)
    admin.after_request(secure_headers)
    errors.init_errors(admin)
    Bootstrap5(app)
    Babel(
        app,
        default_translation_directories=str(TRANSLATIONS),
        locale_selector=choose_language,
        timezone_selector=choose_zone,
    )
    shown.init_shown(app)
    app.register_blueprint(admin)


def _configure(app: Flask, settings: ApiSettings) -> None:
    """Everything about the session's cookie, and CSRF checks on these pages alone."""
    public = settings.public_url or ""
    app.config.update(
        PUBLIC_URL=public,
        SESSION_COOKIE_NAME="admin_session",
        SESSION_COOKIE_PATH="/admin",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SECURE=public.startswith("https://"),
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    csrf.init_app(app)


def _off() -> tuple[str, int]:
    return render_template("admin/off.html"), 503
