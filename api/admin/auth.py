"""Guards every page of the admin UI: who is signed in, for how long, with which role."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import structlog
from flask import Response, abort, current_app, g, redirect, request, session, url_for
from redis.exceptions import RedisError
from werkzeug.wrappers import Response as BaseResponse

from api.actor import Actor
from api.enqueue import job_queues
from shared.domain.scopes import Scope

log = structlog.get_logger()

LIFE = 8 * 3600
ROLES = {"viewer": Scope.READ, "operator": Scope.WRITE, "admin": Scope.ADMIN}
ENDED = "notification:admin:ended:{}"
FILES = {"admin.static", "admin.bootstrap.static"}
LOOPBACK = {"localhost", "127.0.0.1", "::1"}

# Nothing is loaded from elsewhere, and nothing inside of a page is run or styled by it. Bootstrap
# draws the arrows of its fields from data: addresses.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; manifest-src 'self'; form-action 'self'{provider}; "
    "frame-ancestors 'none'; base-uri 'none'"
)

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Person:
    """Who is signed in."""

    subject: str
    name: str
    email: str
    role: str

    @property
    def scope(self) -> Scope:
        return ROLES[self.role]

    def may(self, scope: str) -> bool:
        return self.scope.includes(Scope(scope))


def public(view: View) -> View:
    """Mark a view that needs nobody to be signed in."""
    view.public = True  # type: ignore[attr-defined]
    return view


def require_scope(scope: Scope) -> Callable[[View], View]:
    """Mark a view that takes more than the default: read to look, write to change."""

    def mark(view: View) -> View:
        view.scope = scope  # type: ignore[attr-defined]
        return view

    return mark


def person_actor(person: Person) -> Actor:
    """Return the signed-in person as the actor of this request."""
    name = f"person:{person.email or person.subject}"
    return Actor(name, person.scope, request_id=g.request_id)


def start_session(person: Person, id_token: str) -> None:
    """A session of its own for each sign-in, so that one known beforehand is worth nothing."""
    session.clear()
    session.permanent = True
    session["person"] = [person.subject, person.name, person.email, person.role]
    session["id"] = secrets.token_urlsafe(16)
    session["until"] = int(time.time()) + LIFE
    # Lets the provider end its own session without asking. A cookie bears 4 KB.
    if len(id_token) <= 2200:
        session["id_token"] = id_token


def end_session() -> None:
    """Forget the session here, and refuse copies of its cookie for as long as one would last."""
    if "id" in session:
        left = max(1, session["until"] - int(time.time()))
        try:
            job_queues().connection.set(ENDED.format(session["id"]), 1, ex=left)
        except RedisError as error:
            log.warning("admin.end_not_kept", error_class=type(error).__name__)
    session.clear()


def current_person() -> Person | None:
    """Whoever is signed in, unless the session has run out or was ended."""
    kept = session.get("person")
    if not isinstance(kept, list) or session.get("until", 0) <= time.time():
        return None
    try:
        if job_queues().connection.exists(ENDED.format(session["id"])):
            return None
    except RedisError:
        pass  # the signature and the time have been checked; without Redis that must do
    return Person(*kept)


def redirect_to_public_host() -> BaseResponse | None:
    """On one's own machine, go on under the name that the provider sends people back to."""
    here, there = urlsplit(request.host_url), urlsplit(current_app.config["PUBLIC_URL"])
    local = {here.hostname, there.hostname} <= LOOPBACK and here.port == there.port
    if request.method == "GET" and local and here.hostname != there.hostname:
        return redirect(current_app.config["PUBLIC_URL"] + request.full_path.removesuffix("?"))
    return None


def require_sign_in() -> BaseResponse | None:
    g.person = current_person()
    if g.person is not None:
        g.actor = person_actor(g.person)
        structlog.contextvars.bind_contextvars(actor=g.actor.name)
    endpoint = request.endpoint or ""
    view = current_app.view_functions.get(endpoint)
    if endpoint in FILES or getattr(view, "public", False):
        return None
    if g.person is None:
        if request.method != "GET" or not request.accept_mimetypes.accept_html:
            abort(401)
        back = request.full_path.removesuffix("?")
        return redirect(url_for("admin.signin.welcome", next=back))
    default = Scope.READ if request.method in ("GET", "HEAD") else Scope.WRITE
    if not g.person.scope.includes(getattr(view, "scope", default)):
        abort(403)
    return None


def set_security_headers(response: Response) -> Response:
    # A form may lead to the provider, which Chromium counts as this page's form action.
    provider = current_app.config.get("OIDC_ORIGINS", "")
    # A page may have a stricter one of its own.
    response.headers.setdefault("Content-Security-Policy", POLICY.format(provider=provider))
    response.headers["Referrer-Policy"] = "same-origin"
    kept = request.endpoint in FILES and response.status_code < 400
    response.headers["Cache-Control"] = "max-age=31536000, immutable" if kept else "no-store"
    return response
