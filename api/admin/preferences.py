"""What a viewer prefers: the language, and the time zone that the browser names in a cookie."""

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from api.admin.auth import public
from shared.domain.time_zones import TIME_ZONES

blueprint = Blueprint("preferences", __name__)

LANGUAGES = {"en": "English", "ru": "Русский"}
YEAR = 365 * 24 * 3600


def choose_language() -> str:
    kept = request.cookies.get("admin_language")
    if kept in LANGUAGES:
        return kept
    return request.accept_languages.best_match(list(LANGUAGES), "en") or "en"


def choose_zone() -> str:
    kept = request.cookies.get("admin_zone", "").replace("%2F", "/")
    return kept if kept in TIME_ZONES else "UTC"


@blueprint.get("/language/<language>")
@public
def set_language(language: str) -> Response:
    target = request.args.get("next", "")
    inside = target.startswith("/admin/") and "\\" not in target
    response = redirect(target if inside else "/admin/")
    if language in LANGUAGES:
        response.set_cookie(
            "admin_language",
            language,
            max_age=YEAR,
            path="/admin",
            httponly=True,
            samesite="Lax",
        )
    return response
