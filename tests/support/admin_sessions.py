"""Sessions of the admin UI without an OpenID provider."""

from datetime import UTC, datetime

from flask import Flask
from flask.testing import FlaskClient

from api.actor import Actor
from api.admin.openid_client import seal_tokens
from api.people.sessions import Identity, start_session
from shared.domain.scopes import Scope

ISSUER = "http://127.0.0.1:9"


def sign_in_as(app: Flask, client: FlaskClient, role: str, base_url: str, subject: str = "") -> str:
    """Sign this client in with a role; return the person as the audit log names them."""
    subject = subject or f"subject of {role}"
    identity = Identity(ISSUER, subject, "Person", f"{role}@example.com", True, None)
    name = f"person:{ISSUER}#{subject}"
    with app.app_context():
        tokens = seal_tokens({}, "id_token")
        key = start_session(identity, role, tokens, datetime.now(UTC), Actor(name, Scope.READ))
    with client.session_transaction("/admin/", base_url=base_url) as session:
        session["key"] = key
    return name
