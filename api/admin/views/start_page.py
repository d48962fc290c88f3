"""The page at `/`: the addresses of everything, and what of it is a demonstration."""

from urllib.parse import urlsplit

from flask import Flask, make_response, render_template, request
from werkzeug.wrappers import Response

from api.admin.auth import LOOPBACK_HOSTS, set_security_headers
from api.admin.preferences import LANGUAGES
from shared import __version__
from shared.config.production import find_demo_settings
from shared.config.settings import ApiSettings


def init_start_page(app: Flask, settings: ApiSettings) -> None:
    demo = find_demo_settings(settings)
    # The token is shown only if it is the public one.
    is_demo = "API_BOOTSTRAP_TOKEN" in demo
    facts = {
        "release": __version__,
        "has_admin": settings.oidc_issuer is not None,
        "has_demo_sign_in": "OIDC_CLIENT_SECRET" in demo,
        "demo_token": settings.api_bootstrap_token.get_secret_value() if is_demo else None,
        "mail_page": settings.demo_mail_page if "SMTP_URL" in demo else None,
        "provider_page": settings.demo_provider_page if is_demo else None,
    }

    def show_start_page() -> Response:
        chosen = request.args.get("language")
        page = render_template(
            "admin/start.html",
            **facts,
            chosen_language=chosen if chosen in LANGUAGES else None,
            # The caller's Host is shown only if it is this machine.
            opened=request.host_url.rstrip("/") if _is_local(request.host_url) else None,
            other_address=_find_other_address(settings.public_url),
        )
        return set_security_headers(make_response(page))

    app.add_url_rule("/", "start_page", show_start_page, methods=["GET"])


def _find_other_address(public_url: str | None) -> str | None:
    """Return PUBLIC_URL if this page was opened at another port of the same machine.

    Then the sign-in leads to an address at which nothing may answer.
    """
    if public_url is None or not (_is_local(public_url) and _is_local(request.host_url)):
        return None
    same = urlsplit(request.host_url).port == urlsplit(public_url).port
    return None if same else public_url


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK_HOSTS
