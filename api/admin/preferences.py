"""Preferences from cookies: the language, and the time zone that the page's script stores."""

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from api.admin.auth import public, safe_redirect_target
from shared.domain.time_zones import TIME_ZONES

blueprint = Blueprint("preferences", __name__)

LANGUAGES = {"en": "English", "ru": "Русский"}
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


@blueprint.get("/language/<language>")
@public
def set_language(language: str) -> Response:
    response = redirect(safe_redirect_target(request.args.get("next")))
    if language in LANGUAGES:
        response.set_cookie(
            "admin_language",
            language,
            max_age=COOKIE_SECONDS,
            path="/admin",
            httponly=True,
            samesite="Lax",
        )
    return response
