"""Settings of every process, read from the environment and checked at start.

A missing or malformed variable ends the process with one line that names it. Secrets may be given
as files (shared/config/secret_files.py). docs/configuration.md lists every setting.
"""

import os
import re
import sys
from datetime import time
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.config.secret_files import FILE_SUFFIX, UnreadableSecretFile, read_secret_files
from shared.domain.time_zones import TIME_ZONES
from shared.logging.redaction import register_secrets


def _check_time_zone(name: str) -> str:
    if name not in TIME_ZONES:
        raise ValueError("must be an IANA time zone, for example Europe/Moscow")
    return name


def _check_postgresql_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://")
    return "postgresql://" + url.split("://", 1)[1]


def _check_redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return url


def _check_https_url(url: str) -> str:
    parts = urlsplit(url)
    host = parts.hostname or ""
    # Names under .localhost are loopback too (RFC 6761).
    local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError("must start with https:// (http:// only on this machine)")
    return url


def _check_public_url(url: str) -> str:
    return _check_https_url(url).rstrip("/")


def _check_http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    try:
        parts = urlsplit(url)
        right = bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment or not re.fullmatch(r"[\x21-\x7e]+", url):
        raise ValueError("must be http[s]://host[:port][/path], in ASCII")
    return url.rstrip("/")


def _check_smtp_url(url: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(url.get_secret_value())
        port_is_right = parts.port != 0
    except ValueError:
        port_is_right = False
    if not port_is_right or parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise ValueError("must be smtp[s]://[user:password@]host[:port]")
    if parts.query and (parts.scheme, parts.query) != ("smtp", "starttls=never"):
        raise ValueError("may end in ?starttls=never (with smtp://) and in nothing else")
    return url


# ASCII only, as not every mail server accepts other addresses.
MAIL_ADDRESS = r"[A-Za-z0-9_.!#$%&'*+/=?^`{|}~-]+@[A-Za-z0-9.-]+"


def parse_mail_addresses(text: str) -> list[str]:
    """Return the different addresses in a list with commas. Raise ValueError."""
    addresses = [part.strip() for part in text.split(",") if part.strip()]
    if not all(re.fullmatch(MAIL_ADDRESS, address) for address in addresses):
        raise ValueError("must be mail addresses with commas between them")
    return list({address.lower(): address for address in addresses}.values())


def _check_folder(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def _parse_recipients(value: object) -> object:
    return parse_mail_addresses(value) if isinstance(value, str) else value


def _check_time_of_day(text: object) -> object:
    if isinstance(text, str) and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError("must be a time of day such as 09:00")
    return text


def _check_sender(text: str) -> str:
    if not re.fullmatch(rf"{MAIL_ADDRESS}|[^<>\r\n\",@]+ <{MAIL_ADDRESS}>", text):
        raise ValueError("must be a mail address, or a name and the address in <>")
    return text


class DatabaseSettings(BaseSettings):
    """Settings of commands on the database, such as migrations."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(_check_postgresql_url)]
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = "json"


class CommandSettings(DatabaseSettings):
    """Further settings of commands on clients."""

    default_timezone: Annotated[str, AfterValidator(_check_time_zone)] | None = None
    import_max_bytes: Annotated[int, Field(ge=1)] = 256 * 1024 * 1024


class Settings(DatabaseSettings):
    """Settings of every process."""

    redis_url: Annotated[str, AfterValidator(_check_redis_url)]


class RateSettings(Settings):
    """Settings of sending, and of estimates of its duration."""

    provider_rate: Annotated[float, Field(gt=0)] | None = None


class ReportSettings(DatabaseSettings):
    """Settings of the daily report; it is enabled if recipients and a mail server are set."""

    smtp_url: Annotated[SecretStr, AfterValidator(_check_smtp_url)] | None = None
    report_recipients: Annotated[list[str], NoDecode, BeforeValidator(_parse_recipients)] = []
    report_from: Annotated[str, AfterValidator(_check_sender)] = "notifications@localhost"
    report_time: Annotated[time, BeforeValidator(_check_time_of_day)] = time(9)
    report_timezone: Annotated[str, AfterValidator(_check_time_zone)] = "Europe/Moscow"
    report_language: Annotated[str, Field(pattern="^(en|ru)$")] = "en"
    public_url: Annotated[str, AfterValidator(_check_http_url)] | None = None


class ApiSettings(RateSettings, CommandSettings, ReportSettings):
    """Settings of the API and the admin UI."""

    api_bootstrap_token: Annotated[SecretStr, Field(min_length=16)]
    secret_key: Annotated[SecretStr, Field(min_length=16)]
    metrics_token: Annotated[SecretStr, Field(min_length=16)] | None = None
    test_sends_per_minute: Annotated[int, Field(ge=0)] = 10
    segment_price: Annotated[Decimal, Field(ge=0, allow_inf_nan=False)] | None = None
    # The admin UI is enabled if the issuer is set.
    oidc_issuer: Annotated[str, AfterValidator(_check_https_url)] | None = None
    oidc_client_id: str | None = Field(default=None, validate_default=True)
    oidc_client_secret: SecretStr | None = None
    oidc_scopes: Annotated[str, Field(pattern=r"(^|\s)openid(\s|$)")] = "openid profile email"
    oidc_role_claim: Annotated[str, Field(min_length=1)] = "roles"
    public_url: Annotated[str, AfterValidator(_check_public_url)] | None = None

    @field_validator("oidc_issuer")
    @classmethod
    def _require_public_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("public_url") is None:
            raise ValueError("needs PUBLIC_URL too, the address that people open")
        return value

    @field_validator("oidc_client_id")
    @classmethod
    def _require_client_id(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("oidc_issuer") is not None:
            raise ValueError("is not set, and the admin UI needs it: see OIDC_ISSUER")
        return value


class WorkerSettings(RateSettings, ReportSettings):
    """Settings of workers."""

    provider_url: Annotated[str, AfterValidator(_check_http_url)]
    provider_token: SecretStr
    provider_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    provider_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    batch_size: Annotated[int, Field(ge=1, le=5_000)] = 500
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 50
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365
    journal_dir: Annotated[Path, AfterValidator(_check_folder)] | None = None

    @property
    def lease_seconds(self) -> float:
        """How long a worker's claim on a batch lasts without renewal.

        It is longer than any request, so a live worker has no request in flight when its lease
        expires.
        """
        return self.provider_timeout + 10.0


S = TypeVar("S", bound=DatabaseSettings)


def load_settings(kind: type[S]) -> S:
    """Read settings from the environment, or exit with one line that names the problem."""
    try:
        from_files = read_secret_files(kind.model_fields, os.environ)
    except UnreadableSecretFile as error:
        sys.exit(str(error))
    try:
        settings = kind(**from_files)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = str(first["loc"][0])
        name = field.upper() + (FILE_SUFFIX if field in from_files else "")
        if first["type"] == "missing":
            problem = "is not set"
        else:
            problem = first["msg"].removeprefix("Value error, ")
        sys.exit(f"setting {name}: {problem} (docs/configuration.md lists every setting)")
    _reject_demo_secrets(settings)
    values = [value for _, value in settings]
    register_secrets(v.get_secret_value() for v in values if isinstance(v, SecretStr))
    register_secrets(v for v in values if isinstance(v, str) and "://" in v)
    return settings


# Prefix of the demonstration secrets in docker-compose.yml.
DEMO_PREFIX = "demo-"
# If one of these is https, this is a production environment.
PRODUCTION_URLS = ("PROVIDER_URL", "PUBLIC_URL", "OIDC_ISSUER")


def _reject_demo_secrets(settings: DatabaseSettings) -> None:
    """Exit if demonstration secrets, which are public, are used in a production environment."""
    real = [name for name in PRODUCTION_URLS if os.environ.get(name, "").startswith("https://")]
    known = [
        name.upper() for name, value in settings if _extract_secret(value).startswith(DEMO_PREFIX)
    ]
    if real and known:
        sys.exit(
            f"settings {', '.join(known)}: the demonstration's secrets are public and must not be "
            f"used with a real {' or '.join(real)}: set your own (.env.example names them)"
        )


def _extract_secret(value: object) -> str:
    """Return the secret of a setting: its value, or the password in a URL; else an empty text."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    elif not (isinstance(value, str) and "://" in value):
        return ""
    return (urlsplit(value).password or "") if "://" in value else value
