"""The person, API token or command on whose behalf an operation runs."""

from typing import NamedTuple

from flask import g

from shared.domain.scopes import Scope


class Actor(NamedTuple):
    """Who acts, as the audit log writes it, with the scope that was granted.

    `token_id` is 0 for everything but an API token of the table; `request_id` is None for a
    command.
    """

    name: str
    scope: Scope
    token_id: int = 0
    request_id: str | None = None


COMMAND = Actor("command", Scope.ADMIN)


def current_actor() -> Actor:
    """Return the actor whom authentication has set for this request."""
    actor: Actor = g.actor
    return actor
