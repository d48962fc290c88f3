"""The Flask application, without what this API has no use for on every request."""

from collections.abc import Callable
from typing import Any

import orjson
from flask import Flask, Request
from flask.json.provider import JSONProvider
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

PEOPLE = "/admin"


class OrjsonProvider(JSONProvider):
    """JSON by orjson. Instants are strings already: see answers.py."""

    def dumps(self, obj: Any, **_: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        return orjson.loads(s)


class PeoplesSessions(SecureCookieSessionInterface):
    """Sessions where people sign in. Programs send a token, and have none."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        if not request.path.startswith(PEOPLE):
            return None
        return super().open_session(app, request)


class Application(Flask):
    """The web process's application."""

    json_provider_class = OrjsonProvider
    session_interface = PeoplesSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """As it is: no view here is a coroutine, so none is asked whether it is."""
        return func
