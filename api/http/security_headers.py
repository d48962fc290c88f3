"""Headers that keep a browser from doing more with an answer than it is for.

Whoever knows better has set its own: pages that need scripts allow theirs, files may be kept.
"""

from flask import Flask, Response, request

DEFAULTS = {
    # An answer of the API is data: nothing in it is run, styled, loaded or shown inside of a page.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Clients' data is kept by nobody on the way.
    "Cache-Control": "no-store",
}
TRANSPORT = ("Strict-Transport-Security", "max-age=31536000")


def init_security_headers(app: Flask, public_url: str | None) -> None:
    """To be called before other functions that see a response: the first is asked last."""
    published_by_tls = (public_url or "").startswith("https://")

    def protect(response: Response) -> Response:
        given = {name.lower() for name, _ in response.headers}
        response.headers.extend(item for item in DEFAULTS.items() if item[0].lower() not in given)
        # By TLS too where a proxy that gunicorn trusts (FORWARDED_ALLOW_IPS) says so.
        if published_by_tls or request.is_secure:
            response.headers.setdefault(*TRANSPORT)
        return response

    app.after_request(protect)
