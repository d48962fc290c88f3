"""Security headers of all responses.

Headers already set by a view win: pages that need scripts allow theirs, static files are cached.
"""

from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.routing import RequestRedirect

DEFAULTS = {
    # A response of the API is data: a browser must not run, style, load or frame any of it.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Forbid caching of personal data.
    "Cache-Control": "no-store",
}
HSTS = ("Strict-Transport-Security", "max-age=31536000")


def init_security_headers(app: Flask, public_url: str | None) -> None:
    """Call this before other `after_request` registrations: Flask runs the first one last."""
    public_url_uses_tls = (public_url or "").startswith("https://")

    def add_headers(response: Response) -> Response:
        present = {name.lower() for name, _ in response.headers}
        response.headers.extend(item for item in DEFAULTS.items() if item[0].lower() not in present)
        # `is_secure` covers a proxy that gunicorn trusts (FORWARDED_ALLOW_IPS) and that uses TLS.
        if public_url_uses_tls or request.is_secure:
            response.headers.setdefault(*HSTS)
        if isinstance(request.routing_exception, RequestRedirect):
            response.headers["Location"] = _relative(request.routing_exception.new_url)
        return response

    app.after_request(add_headers)


def _relative(url: str) -> str:
    """Return an address of this service without the host, which the caller has chosen."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return f"/{parts.path.lstrip('/')}{query}"
