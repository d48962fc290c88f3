"""Sessions, roles and guards of the admin UI: every page requires a person who may see it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from flask import Response, abort, current_app, g, redirect, request, session, url_for
from werkzeug.wrappers import Response as BaseResponse

from api.actor import Actor
from api.admin.role_check import check_session
from api.audit_log.service import name_person
from api.people.sessions import find_session, find_session_seen_lately
from shared.domain.scopes import Scope

ROLES = {"viewer": Scope.READ, "operator": Scope.WRITE, "admin": Scope.ADMIN}
LIVE_ENDPOINT = "admin.live_updates.stream"
STATIC_ENDPOINTS = {"admin.static", "admin.bootstrap.static"}
LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}
REDIRECT_TARGET = re.compile(r"/admin/[!-\[\]-~]*")  # no backslash, which browsers read as a slash
DOT_SEGMENT = re.compile(r"/(\.|%2e){1,2}(/|$)", re.IGNORECASE)
MAX_TARGET_LENGTH = 1000  # it is kept in a cookie during the sign-in

# Permit resources of this origin only, and no inline scripts or styles. Bootstrap draws the arrows
# of its fields from data: URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'{provider}; "
    "frame-ancestors 'none'; base-uri 'none'"
)

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Person:
    """The person who is signed in, as the session knows them."""

    session_id: int
    issuer: str
    subject: str
    name: str
    role: str

    @property
    def scope(self) -> Scope:
        return ROLES[self.role]

    def has_scope(self, scope: str) -> bool:
        return self.scope.includes(Scope(scope))


def public(view: View) -> View:
    """Mark a view that requires no sign-in."""
    view.public = True  # type: ignore[attr-defined]
    return view


def require_scope(scope: Scope) -> Callable[[View], View]:
    """Mark a view that requires another scope than the default: `read` for GET, else `write`."""

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def without_csrf_token(view: View) -> View:
    """Mark a changing view that programs call, which authenticate in another way."""
    view.without_csrf_token = True  # type: ignore[attr-defined]
    return view


def person_actor(person: Person) -> Actor:
    """Return the signed-in person as the actor of this request."""
    return make_actor(person.issuer, person.subject, person.role)


def make_actor(issuer: str, subject: str, role: str) -> Actor:
    """Return a person as an actor: named by issuer and subject, which no other person can get."""
    return Actor(name_person(issuer, subject), ROLES[role], request_id=g.request_id)


def keep_session(key: str) -> None:
    """Put a new session's key into the cookie. What was there is dropped: no session fixation."""
    session.clear()
    session.permanent = True
    session["key"] = key


def current_person() -> Person | None:
    """Return the person of the session; None if there is none, or if it has expired or ended.

    From time to time this asks the provider whether the person still has the role.
    """
    key = session.get("key")
    find = find_session_seen_lately if request.endpoint == LIVE_ENDPOINT else find_session
    found = find(key) if isinstance(key, str) else None
    if found is None:
        return None
    role = found.role
    if found.check_is_due:
        role = check_session(found.id, found.subject, role)
    if role is None:
        return None
    return Person(found.id, found.issuer, found.subject, found.name, role)


def redirect_to_public_host() -> BaseResponse | None:
    """On a local machine, redirect to the host name to which the provider redirects back."""
    host, public_host = urlsplit(request.host_url), urlsplit(current_app.config["PUBLIC_URL"])
    is_local = {
        host.hostname,
        public_host.hostname,
    } <= LOOPBACK_HOSTS and host.port == public_host.port
    if request.method == "GET" and is_local and host.hostname != public_host.hostname:
        return redirect(current_app.config["PUBLIC_URL"] + request.full_path.removesuffix("?"))
    return None


def require_sign_in() -> BaseResponse | None:
    """Set the actor; redirect to the sign-in, or answer 401 or 403, where the view requires it."""
    g.person = None  # an error page may be shown before it is known
    endpoint = request.endpoint or ""
    if endpoint in STATIC_ENDPOINTS:
        return None
    g.person = current_person()
    if g.person is not None:
        g.actor = person_actor(g.person)
        structlog.contextvars.bind_contextvars(actor=g.actor.name)
    view = current_app.view_functions.get(endpoint)
    if getattr(view, "public", False):
        return None
    if g.person is None:
        fragment = "X-Fragment" in request.headers  # asked for by a script, which shows no sign-in
        if request.method != "GET" or fragment or not request.accept_mimetypes.accept_html:
            abort(401)
        target = request.full_path.removesuffix("?")
        return redirect(url_for("admin.signin.show_sign_in", next=target))
    default = Scope.READ if request.method in ("GET", "HEAD") else Scope.WRITE
    if not g.person.scope.includes(getattr(view, "scope", default)):
        abort(403)
    return None


def safe_redirect_target(address: object) -> str:
    """Return a path of the admin UI unchanged, and its first page for everything else.

    Printable ASCII only: a browser writes a path so, and the answer's head cannot hold the rest.
    """
    if (
        isinstance(address, str)
        and len(address) <= MAX_TARGET_LENGTH
        and REDIRECT_TARGET.fullmatch(address)
        and not DOT_SEGMENT.search(address.partition("?")[0])
    ):
        return address
    return "/admin/"


def set_security_headers(response: Response) -> Response:
    # A form may redirect to the provider, to which Chromium applies `form-action` as well.
    provider = current_app.config.get("OIDC_ORIGINS", "")
    # A view may have set a stricter policy.
    response.headers.setdefault(
        "Content-Security-Policy", CONTENT_SECURITY_POLICY.format(provider=provider)
    )
    response.headers["Referrer-Policy"] = "same-origin"
    cacheable = request.endpoint in STATIC_ENDPOINTS and response.status_code < 400
    response.headers["Cache-Control"] = "max-age=31536000, immutable" if cacheable else "no-store"
    return response
