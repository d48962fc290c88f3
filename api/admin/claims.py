"""Claims of the OpenID provider: checked before anything of them is stored or shown.

They are data from outside: a claim of another type, or with control characters, is refused.
"""

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from api.people.sessions import Identity, Logout

ROLES = ("viewer", "operator", "admin")
MAX_ID_LENGTH = 255
MAX_SHOWN_LENGTH = 200
MAX_LISTED_CLAIMS, MAX_CLAIM_DEPTH = 50, 3
# Control characters, surrogates and unassigned code points; and marks that reorder a line.
REFUSED_CATEGORIES = {"Cc", "Cs", "Cn", "Zl", "Zp"}
DIRECTION_MARKS = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

CLOCK_LEEWAY_SECONDS = 10
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
# A logout token is meant to live for minutes; it is remembered until it expires.
MAX_LOGOUT_SECONDS = 24 * 3600
MAX_INSTANT = 253_402_300_799  # the year 9999
LOGOUT_TYPES = {None, "jwt", "logout+jwt", "application/logout+jwt"}


class InvalidClaim(ValueError):
    """A claim is missing, of a wrong type, or holds characters that no claim needs."""


def read_identity(issuer: str, claims: Mapping[str, Any]) -> Identity:
    """Return who the claims are about. Raise InvalidClaim."""
    subject = _read_id(claims, "sub")
    if subject is None:
        raise InvalidClaim("sub is missing")
    email = _read_text(claims, "email")
    names = (_read_text(claims, "name"), _read_text(claims, "preferred_username"))
    name = next((each for each in names if each), email or subject)
    verified = claims.get("email_verified")
    if not isinstance(verified, bool | None) and verified not in ("true", "false"):
        raise InvalidClaim("email_verified is not true or false")
    return Identity(
        issuer=issuer,
        subject=subject,
        name=name[:MAX_SHOWN_LENGTH],
        email=email[:MAX_SHOWN_LENGTH],
        email_verified=bool(email) and verified in (True, "true"),
        sid=_read_id(claims, "sid"),
    )


def read_role(claims: Mapping[str, Any], claim: str) -> str | None:
    """Return the highest role in the role claim, which holds a role or a list of roles.

    `claim` is the name of the claim, or a dotted path through nested objects.
    """
    value = _find(claims, claim)
    values = value if isinstance(value, list) else [value]
    roles = [role for role in ROLES if role in values]
    return roles[-1] if roles else None


def has_role_claim(claims: Mapping[str, Any], claim: str) -> bool:
    """Return whether the claims say anything about roles."""
    return _find(claims, claim) is not None


def list_claim_names(claims: Mapping[str, Any], above: str = "") -> list[str]:
    """Return the names of claims, and the dotted paths of those in objects; no values."""
    names: list[str] = []
    for name, value in claims.items():
        path = f"{above}{name}"[:MAX_SHOWN_LENGTH]
        nested = isinstance(value, Mapping) and value and path.count(".") < MAX_CLAIM_DEPTH
        names += list_claim_names(value, f"{path}.") if nested else [path]
    return sorted(names)[:MAX_LISTED_CLAIMS]


def list_roles(claims: Mapping[str, Any], claim: str) -> list[str]:
    """Return what the role claim holds, whether these are roles of this service or not."""
    value = _find(claims, claim)
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(each)[:MAX_SHOWN_LENGTH] for each in values[:MAX_LISTED_CLAIMS]]


def read_instant(claims: Mapping[str, Any], name: str) -> datetime:
    """Return a claim that is a time in seconds. Raise InvalidClaim."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidClaim(f"{name} is not a time")
    if not 0 <= value <= MAX_INSTANT:
        raise InvalidClaim(f"{name} is out of range")
    return datetime.fromtimestamp(value, UTC)


def read_logout(
    header: Mapping[str, Any], claims: Mapping[str, Any], *, issuer: str, client_id: str
) -> Logout:
    """Return what a logout token with a valid signature says. Raise InvalidClaim.

    These are the rules of OpenID Connect Back-Channel Logout 1.0, section 2.6.
    """
    kind = header.get("typ")
    if not isinstance(kind, str | None) or (kind and kind.lower()) not in LOGOUT_TYPES:
        raise InvalidClaim("typ is not that of a logout token")
    if "crit" in header:
        raise InvalidClaim("crit names extensions that are not supported")
    stated = claims.get("iss")
    if not isinstance(stated, str) or stated.rstrip("/") != issuer.rstrip("/"):
        raise InvalidClaim("iss is another provider")
    audience = claims.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        raise InvalidClaim("aud is another client")
    now = datetime.now(UTC).timestamp()
    issued_at, expires_at = read_instant(claims, "iat"), read_instant(claims, "exp")
    if issued_at.timestamp() > now + CLOCK_LEEWAY_SECONDS:
        raise InvalidClaim("iat is in the future")
    if expires_at.timestamp() <= now - CLOCK_LEEWAY_SECONDS:
        raise InvalidClaim("exp has passed")
    if (expires_at - issued_at).total_seconds() > MAX_LOGOUT_SECONDS:
        raise InvalidClaim("exp is more than a day after iat")
    events = claims.get("events")
    if not isinstance(events, Mapping) or not isinstance(events.get(LOGOUT_EVENT), Mapping):
        raise InvalidClaim("events has no back-channel logout")
    if "nonce" in claims:
        raise InvalidClaim("nonce must not be there: this may be an ID token")
    token_id = _read_id(claims, "jti")
    subject, sid = _read_id(claims, "sub"), _read_id(claims, "sid")
    if token_id is None:
        raise InvalidClaim("jti is missing")
    if subject is None and sid is None:
        raise InvalidClaim("neither sub nor sid is there")
    return Logout(token_id, issuer, subject, sid, issued_at, expires_at)


def _find(claims: Mapping[str, Any], claim: str) -> Any:
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for name in claim.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _read_id(claims: Mapping[str, Any], name: str) -> str | None:
    """Return an identifier, which is compared and stored as it is; None without the claim."""
    value = claims.get(name)
    if value is None:
        return None
    text = _check_text(name, value)
    if not 0 < len(text) <= MAX_ID_LENGTH:
        raise InvalidClaim(f"{name} must have 1 to {MAX_ID_LENGTH} characters")
    return text


def _read_text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return "" if value is None else _check_text(name, value).strip()


def _check_text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidClaim(f"{name} is not a string")
    if any(unicodedata.category(c) in REFUSED_CATEGORIES or c in DIRECTION_MARKS for c in value):
        raise InvalidClaim(f"{name} contains control characters")
    return value
