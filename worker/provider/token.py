"""The provider's token, which can be replaced while the process runs, and the end of its validity.

A token that comes from a file (`PROVIDER_TOKEN_FILE`) is read again when the file changes, and when
the provider rejects it: at most once a second in a process, and without restarting anything.

A JWT says when it expires (`exp`) and when it was issued (`iat`). It is due for renewal once a
tenth of its validity is left, at most a week; without `iat`, once a day is left.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from time import time
from typing import Any, NamedTuple

import structlog
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from shared.config.checks import check_token
from shared.config.secret_files import UnreadableSecretFile, read_secret_file
from shared.logging.log_config import format_timestamp
from shared.logging.redaction import forget_secret, register_secrets
from shared.metrics import TOKEN_KEY, TOKEN_KEY_SECONDS
from shared.redis_client import describe_error

log = structlog.get_logger()

SETTING = "PROVIDER_TOKEN_FILE"
REREAD_SECONDS = 1.0
REMINDER_SECONDS = 3600.0  # between two log lines about a token that is due for renewal
RENEWAL_SHARE = 0.1
MAX_RENEWAL_SECONDS = 7 * 86400.0
DEFAULT_RENEWAL_SECONDS = 86400.0


class Validity(NamedTuple):
    """When a token expires, and from when on it should be renewed, in seconds since 1970."""

    expires_at: float
    renew_at: float


def read_validity(token: str) -> Validity | None:
    """Return the validity that a JWT states; None for another token or one without an end.

    The signature is not checked: only the provider can.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires_at = _read_instant(claims, "exp")
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return None
    if expires_at is None:
        return None
    issued_at = _read_instant(claims, "iat")
    notice = DEFAULT_RENEWAL_SECONDS
    if issued_at is not None:
        notice = min(MAX_RENEWAL_SECONDS, max(0.0, RENEWAL_SHARE * (expires_at - issued_at)))
    return Validity(expires_at, expires_at - notice)


def _read_instant(claims: Any, name: str) -> float | None:
    value = claims.get(name) if isinstance(claims, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    # Up to the year 9999, which every program that shows it knows.
    return float(value) if 0 < value < 253_402_300_800 else None


class ProviderToken:
    """The token of this process. `now` is the boottime."""

    def __init__(self, value: str, path: Path | None = None) -> None:
        self.value = value
        self.path = path
        self.validity = read_validity(value)
        self._previous: str | None = None
        self._signature: tuple[int, int, int] | None = None
        self._rejected = False
        self._problem = ""
        self._next_read = self._next_reminder = 0.0

    @classmethod
    def from_settings(cls, value: SecretStr, environment: Mapping[str, str]) -> "ProviderToken":
        path = environment.get(SETTING)
        return cls(value.get_secret_value(), Path(path) if path else None)

    def record_rejection(self) -> None:
        """Read the file at the next refresh even if it looks unchanged."""
        self._rejected = True

    def refresh(self, now: float) -> bool:
        """Read the file again if it has changed; return whether there is another token."""
        if self.path is None or now < self._next_read:
            return False
        self._next_read = now + REREAD_SECONDS
        try:
            status = self.path.stat()
            signature = (status.st_mtime_ns, status.st_ino, status.st_size)
            if signature == self._signature and not self._rejected:
                return False
            self._rejected = False
            token = read_secret_file(SETTING, self.path)
            check_token(SecretStr(token))
        except (OSError, ValueError, UnreadableSecretFile) as error:
            self._report_problem(error)
            return False
        self._signature, self._problem = signature, ""
        if token == self.value:
            return False
        if self._previous is not None:
            forget_secret(self._previous)
        register_secrets([token])
        self._previous, self.value, self.validity = self.value, token, read_validity(token)
        self._next_reminder = 0.0
        log.info("provider.token_replaced", expires_at=self._format_end())
        return True

    def remind(self, now: float) -> None:
        """Log hourly that the token is due for renewal, or has expired."""
        if self.validity is None or now < self._next_reminder:
            return
        seconds = self.validity.expires_at - time()
        if time() >= self.validity.renew_at:
            self._next_reminder = now + REMINDER_SECONDS
            write = log.error if seconds <= 0 else log.warning
            write("provider.token_expiring", expires_at=self._format_end(), seconds=round(seconds))

    def publish(self, redis: Redis) -> None:
        """Store the token's validity, not the token, for the metrics and the admin UI."""
        if self.validity is None:
            return
        value = f"{self.validity.expires_at:.0f} {self.validity.renew_at:.0f}"
        try:
            redis.set(TOKEN_KEY, value, ex=TOKEN_KEY_SECONDS)
        except (RedisError, OSError) as error:
            log.warning("metrics.unavailable", source="redis", error=describe_error(error))

    def _report_problem(self, error: Exception) -> None:
        """Log once why the file cannot be used; the token stays as it is."""
        text = f"{self.path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        if text != self._problem:
            self._problem = text
            log.warning("provider.token_unreadable", error=text)

    def _format_end(self) -> str | None:
        return None if self.validity is None else format_timestamp(self.validity.expires_at)
