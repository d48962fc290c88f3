"""The admin UI under /admin/: pages for people, who sign in through OpenID Connect.

The views call the same services as the REST routes; a person's role is a scope. Without OIDC_ISSUER
there is only a page that explains how to enable the UI. The page at `/` lists all addresses.
"""

from pathlib import Path
from typing import NoReturn

from flask import Blueprint, Flask, abort, current_app, render_template, request
from flask_babel import Babel
from flask_wtf.csrf import CSRFProtect

from api.admin import error_pages, preferences, sign_in
from api.admin.auth import public, redirect_to_public_host, require_sign_in, set_security_headers
from api.admin.openid_client import init_client
from api.admin.preferences import choose_language, choose_zone
from api.admin.presenters.charts import init_charts
from api.admin.presenters.formatting import init_template_functions
from api.admin.presenters.live_figures import init_live_figures
from api.admin.presenters.plurals import init_plurals
from api.admin.presenters.stop_banner import read_emergency_stop
from api.admin.views import (
    audit,
    clients,
    imports,
    live_updates,
    mailing_calendar,
    mailing_editor,
    mailings,
    opt_outs,
    policy,
    reports,
    sessions,
    tokens,
)
from api.admin.views.dashboard import dashboard
from api.admin.views.imports import allow_large_upload
from api.admin.views.reports import init_reports
from api.admin.views.start_page import init_start_page
from shared.config.settings import ApiSettings

csrf = CSRFProtect()
VIEWS = (
    sign_in,
    preferences,
    mailings,
    mailing_calendar,
    mailing_editor,
    clients,
    imports,
    opt_outs,
    policy,
    tokens,
    sessions,
    audit,
    reports,
    live_updates,
)
TRANSLATIONS = Path(__file__).parent / "translations"


def init_admin(app: Flask, settings: ApiSettings) -> None:
    admin = Blueprint(
        "admin", __name__, url_prefix="/admin", template_folder="templates", static_folder="static"
    )
    # The style sheet of Bootstrap, from the package flask_bootstrap.
    admin.register_blueprint(
        Blueprint(
            "bootstrap",
            "flask_bootstrap",
            static_folder="static/bootstrap5",
            static_url_path="/bootstrap",
        )
    )
    if settings.oidc_issuer:
        admin.get("/")(dashboard)
        admin.add_url_rule("/<path:_rest>", view_func=show_not_found)
        _configure(app, settings)
        admin.before_request(redirect_to_public_host)
        admin.before_request(require_sign_in)
        admin.before_request(read_emergency_stop)
        admin.before_request(allow_large_upload)
        admin.before_request(protect_forms)
        for views in VIEWS:
            admin.register_blueprint(views.blueprint)
        init_client(app, settings)
        init_live_figures(app)
        init_charts(app)
        init_reports(app, settings)
    else:
        admin.get("/")(show_disabled_page)
        admin.get("/<path:_rest>")(show_disabled_page)
    admin.after_request(set_security_headers)
    error_pages.init_errors(admin)
    Babel(
        app,
        default_translation_directories=str(TRANSLATIONS),
        locale_selector=choose_language,
        timezone_selector=choose_zone,
    )
    init_template_functions(app)
    init_plurals(app)
    app.register_blueprint(admin)
    init_start_page(app, settings)


def _configure(app: Flask, settings: ApiSettings) -> None:
    """Configure the session cookie, and CSRF checks for the admin UI only."""
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


def protect_forms() -> None:
    """Require a CSRF token for every change, but where the view authenticates its caller itself."""
    view = current_app.view_functions.get(request.endpoint or "")
    if not getattr(view, "without_csrf_token", False):
        csrf.protect()


@public
def show_disabled_page(_rest: str = "") -> tuple[str, int]:
    return render_template("admin/off.html"), 503


@public
def show_not_found(_rest: str) -> NoReturn:
    abort(404)
