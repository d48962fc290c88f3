"""Keep the fields of a form that was refused for its session or its token.

The page of the refusal holds them, for forms that came from a page of this site only: a page
elsewhere could otherwise prepare a change that needs but one click here.
"""

from urllib.parse import urlsplit

from flask import current_app, request, url_for

from api.admin.auth import safe_redirect_target

MAX_KEPT_BYTES = 1_000_000
KEPT_TYPES = ("application/x-www-form-urlencoded",)
NOT_KEPT = ("csrf_token",)


def kept_fields() -> list[tuple[str, str]] | None:
    """Return the fields of the refused form; None where they cannot be kept."""
    size = request.content_length
    if request.method != "POST" or request.mimetype not in KEPT_TYPES or not _from_this_site():
        return None
    if size is None or size > MAX_KEPT_BYTES:
        return None
    return [(name, value) for name, value in request.form.items(multi=True) if name not in NOT_KEPT]


def sign_in_address() -> str:
    """Return the address of the sign-in that leads back to the page of the refused request."""
    target = request.full_path.removesuffix("?")
    if request.method != "GET":
        target = request.path if _can_be_read() else urlsplit(request.referrer or "").path
    return url_for("admin.signin.show_sign_in", next=safe_redirect_target(target))


def _can_be_read() -> bool:
    """Return whether a GET of the request's path shows a page."""
    adapter = current_app.create_url_adapter(request)
    if adapter is None or not adapter.test(request.path, "GET"):
        return False
    endpoint, _arguments = adapter.match(request.path, "GET")
    return bool(endpoint != "admin.show_not_found")


def _from_this_site() -> bool:
    origin = request.headers.get("Origin")
    own = urlsplit(current_app.config["PUBLIC_URL"])
    return origin in (f"{own.scheme}://{own.netloc}", request.host_url.rstrip("/"))
