"""Preferences from cookies: language, theme, and the time zone that the page's script stores."""

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from api.admin.auth import public, safe_redirect_target
from shared.domain.time_zones import TIME_ZONES

blueprint = Blueprint("preferences", __name__)

LANGUAGES = {"en": "English", "ru": "Русский"}
THEMES = ("light", "dark")
COOKIE_SECONDS = 365 * 24 * 3600


def choose_language() -> str:
    # The start page is outside of /admin, to which the cookie is limited.
    cookie = request.cookies.get("admin_language")
    chosen = request.args.get("language") if request.path == "/" else cookie
    if chosen in LANGUAGES:
        return chosen
    return request.accept_languages.best_match(list(LANGUAGES), "en") or "en"


def choose_zone() -> str:
    kept = request.cookies.get("admin_zone", "").replace("%2F", "/")
    return kept if kept in TIME_ZONES else "UTC"


def choose_theme() -> str | None:
    """Return the theme that the person has chosen; None to follow the system's."""
    chosen = request.cookies.get("admin_theme")
    return chosen if chosen in THEMES else None


def return_target() -> str:
    """Return the address to show again after a preference was changed on this page."""
    if request.method != "GET" or request.endpoint == "admin.signin.finish_sign_in":
        return "/admin/"
    return request.full_path.removesuffix("?")


@blueprint.get("/language/<language>")
@public
def set_language(language: str) -> Response:
    return _keep("admin_language", language if language in LANGUAGES else None)


@blueprint.get("/theme/<theme>")
@public
def set_theme(theme: str) -> Response:
    """Choose a theme where no script does: scripts write this cookie as well."""
    return _keep("admin_theme", theme if theme in THEMES else None, httponly=False)


def _keep(cookie: str, value: str | None, *, httponly: bool = True) -> Response:
    """Store a preference, unless it is unknown, and show the page again."""
    response = redirect(safe_redirect_target(request.args.get("next")))
    if value is not None:
        response.set_cookie(
            cookie,
            value,
            max_age=COOKIE_SECONDS,
            path="/admin",
            httponly=httponly,
            samesite="Lax",
        )
    return response
