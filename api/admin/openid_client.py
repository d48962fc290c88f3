"""The client of the OpenID provider: metadata, keys, tokens, and what it says about a session."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from authlib.integrations.flask_client import OAuth
from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flask import Flask, current_app
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from api.admin.claims import CLOCK_LEEWAY_SECONDS, read_logout
from api.admin.provider_session import REQUEST_SECONDS, ProviderSession
from api.people.sessions import SESSION_SECONDS, Logout
from shared.config.settings import ApiSettings

# Asymmetric signatures only: no other party can create them.
ALGORITHMS = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"}
# An unknown key id makes this service fetch the provider's keys; a stranger can send any.
MIN_KEY_FETCH_SECONDS = 30.0
MAX_LOGOUT_TOKEN_LENGTH = 16 * 1024


def init_client(app: Flask, settings: ApiSettings) -> None:
    issuer = settings.oidc_issuer or ""
    secret = settings.oidc_client_secret
    oauth = OAuth(app)
    oauth.register(
        "provider",
        client_id=settings.oidc_client_id,
        client_secret=secret.get_secret_value() if secret else None,
        server_metadata_url=issuer.rstrip("/") + "/.well-known/openid-configuration",
        client_kwargs={
            "scope": settings.oidc_scopes,
            "code_challenge_method": "S256",
            "default_timeout": REQUEST_SECONDS,
            **({} if secret else {"token_endpoint_auth_method": "none"}),
        },
    )
    oauth.provider.client_cls = ProviderSession
    derived = HKDF(SHA256(), 32, None, b"tokens of admin sessions")
    key = derived.derive(settings.secret_key.get_secret_value().encode())
    app.extensions.update(oidc=oauth.provider, token_cipher=Fernet(urlsafe_b64encode(key)))
    parts = urlsplit(issuer)
    app.config.update(
        OIDC_ISSUER=issuer,
        OIDC_ROLE_CLAIM=settings.oidc_role_claim,
        OIDC_ORIGINS=f" {parts.scheme}://{parts.netloc}",
        OIDC_KEYS_FETCHED_AT=-MIN_KEY_FETCH_SECONDS,
        PERMANENT_SESSION_LIFETIME=SESSION_SECONDS,
    )


def load_provider(*, fresh: bool = False) -> Any:
    """Return the client with the provider's metadata. Raise ValueError for another issuer.

    With `fresh`, the metadata is fetched anew: a browser must not be sent to a provider that is
    down, whose error page would be the browser's. If that fails, what is known stays: logout tokens
    need it, and strangers can send them without end.
    """
    client = current_app.extensions["oidc"]
    loaded_at = client.server_metadata.pop("_loaded_at", None) if fresh else None
    try:
        metadata = client.load_server_metadata()
    except BaseException:
        if loaded_at is not None:
            client.server_metadata["_loaded_at"] = loaded_at
        raise
    if str(metadata.get("issuer", "")).rstrip("/") != current_app.config["OIDC_ISSUER"].rstrip("/"):
        client.server_metadata.pop("_loaded_at", None)
        raise ValueError("the provider calls itself by another name than OIDC_ISSUER")
    algorithms = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = sorted(ALGORITHMS.intersection(algorithms))
    return client


def claims_options(client: Any) -> dict[str, Any]:
    """Return what every ID token must state."""
    issuer = current_app.config["OIDC_ISSUER"].rstrip("/")
    return {
        "iss": {"essential": True, "values": [issuer, issuer + "/"]},
        "aud": {"essential": True, "values": [client.client_id]},
    }


def parse_id_token(client: Any, token: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the claims of an ID token that a refresh gave, which has no nonce of a sign-in."""
    claims: Mapping[str, Any] = client.parse_id_token(
        token, nonce=None, claims_options=claims_options(client), leeway=CLOCK_LEEWAY_SECONDS
    )
    return claims


def fetch_userinfo(client: Any, token: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
    """Fetch the claims of the userinfo endpoint: some providers keep the ID token small."""
    if not client.server_metadata.get("userinfo_endpoint"):
        return {}
    access = {"access_token": token.get("access_token"), "token_type": "Bearer"}
    claims: Mapping[str, Any] = client.userinfo(token=access)
    return claims if claims.get("sub") == subject else {}


def parse_logout_token(text: str) -> Logout:
    """Return what a logout token says. Raise an exception, of whatever kind, if it is not valid."""
    if not text.isascii() or len(text) > MAX_LOGOUT_TOKEN_LENGTH or text.count(".") != 2:
        raise ValueError("the logout token is not a signed JWT")
    client = load_provider()
    algorithms = client.server_metadata["id_token_signing_alg_values_supported"]
    registry = JWSRegistry(algorithms=algorithms, strict_check_header=False)
    try:
        keys = KeySet.import_key_set(client.fetch_jwk_set())
        token = jwt.decode(text, key=keys, registry=registry)
    except InvalidKeyIdError:
        if time.monotonic() - current_app.config["OIDC_KEYS_FETCHED_AT"] < MIN_KEY_FETCH_SECONDS:
            raise
        current_app.config["OIDC_KEYS_FETCHED_AT"] = time.monotonic()
        keys = KeySet.import_key_set(client.fetch_jwk_set(force=True))
        token = jwt.decode(text, key=keys, registry=registry)
    issuer = current_app.config["OIDC_ISSUER"]
    return read_logout(token.header, token.claims, issuer=issuer, client_id=client.client_id)


def seal_tokens(token: Mapping[str, Any], role_source: str) -> bytes:
    """Encrypt what later checks of the session need: the provider's tokens are secrets."""
    expires_at = token.get("expires_at")
    kept = {
        "refresh_token": _text_or_none(token.get("refresh_token")),
        "access_token": _text_or_none(token.get("access_token")),
        "expires_at": expires_at if isinstance(expires_at, int | float) else None,
        "id_token": _text_or_none(token.get("id_token")),
        "role_source": role_source,
    }
    cipher: Fernet = current_app.extensions["token_cipher"]
    return cipher.encrypt(json.dumps(kept).encode())


def open_tokens(sealed: bytes | None) -> dict[str, Any]:
    """Decrypt the tokens of a session; they are empty under another SECRET_KEY."""
    if sealed is None:
        return {}
    cipher: Fernet = current_app.extensions["token_cipher"]
    try:
        tokens: dict[str, Any] = json.loads(cipher.decrypt(sealed))
    except InvalidToken:
        return {}
    return tokens


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None
