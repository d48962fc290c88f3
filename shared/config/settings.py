"""Settings of every process, read from the environment and checked at start.

A missing or malformed variable ends the process with one line that names it. Secrets may be given
as files (shared/config/secret_files.py). docs/configuration.md lists every setting.
"""

import os
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

from shared.config import checks
from shared.config.production import find_unsuitable_secrets
from shared.config.secret_files import FILE_SUFFIX, UnreadableSecretFile, read_secret_files
from shared.logging.redaction import register_secrets

# What identifies a caller or signs a session; sent in a header, so of printable ASCII.
Token = Annotated[SecretStr, Field(min_length=16), AfterValidator(checks.check_token)]
MAX_IMPORT_BYTES = 16 * 1024**3


class DatabaseSettings(BaseSettings):
    """Settings of commands on the database, such as migrations."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(checks.check_postgresql_url)]
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = "json"


class TracingSettings(DatabaseSettings):
    """Where traces are sent, and which share of them; without an address there are none."""

    otel_exporter_otlp_endpoint: Annotated[str, AfterValidator(checks.check_http_url)] | None = None
    otel_traces_sampler_arg: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0


class CommandSettings(DatabaseSettings):
    """Further settings of commands on clients."""

    default_timezone: Annotated[str, AfterValidator(checks.check_time_zone)] | None = None
    import_max_bytes: Annotated[int, Field(ge=1, le=MAX_IMPORT_BYTES)] = 256 * 1024 * 1024


class EndSettings(DatabaseSettings):
    """When dispatch of a mailing stops: so many seconds before its end."""

    end_margin: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0.0


class Settings(DatabaseSettings):
    """Settings of every process."""

    redis_url: Annotated[str, AfterValidator(checks.check_redis_url)]


class FleetSettings(Settings, EndSettings, TracingSettings):
    """Settings of sending: used by workers, and checked by the API where it is given them.

    So a mistake shows when the API starts, and not when a worker is first needed.
    """

    provider_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    provider_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    provider_rate: Annotated[float, Field(ge=0.01, le=1_000_000, allow_inf_nan=False)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=5_000)] = 500
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 50
    retention_days: Annotated[int, Field(ge=1, le=36_500)] = 365

    @property
    def lease_seconds(self) -> float:
        """How long a worker's claim on a batch lasts without renewal.

        It is longer than any request, so a live worker has no request in flight when its lease
        expires.
        """
        return self.provider_timeout + 10.0


class ReportSettings(EndSettings):
    """Settings of the daily report; it is enabled if recipients and a mail server are set."""

    smtp_url: Annotated[SecretStr, AfterValidator(checks.check_smtp_url)] | None = None
    report_recipients: Annotated[list[str], NoDecode, BeforeValidator(checks.parse_recipients)] = []
    report_from: Annotated[str, AfterValidator(checks.check_sender)] = "notifications@localhost"
    report_time: Annotated[time, BeforeValidator(checks.check_time_of_day)] = time(9)
    report_timezone: Annotated[str, AfterValidator(checks.check_time_zone)] = "Europe/Moscow"
    report_language: Annotated[str, Field(pattern="^(en|ru)$")] = "en"
    public_url: Annotated[str, AfterValidator(checks.check_http_url)] | None = None
    segment_price: (
        Annotated[Decimal, Field(gt=0, le=1_000_000, decimal_places=6, allow_inf_nan=False)] | None
    ) = None

    @property
    def smtp_address(self) -> str | None:
        """The address of the mail server, with user and password."""
        return None if self.smtp_url is None else self.smtp_url.get_secret_value()

    @property
    def mail_server(self) -> str | None:
        """The mail server's host and port, without user and password."""
        if self.smtp_url is None:
            return None
        return urlsplit(self.smtp_url.get_secret_value()).netloc.rpartition("@")[2]


class ApiSettings(FleetSettings, CommandSettings, ReportSettings):
    """Settings of the API and the admin UI."""

    api_bind: Annotated[str, AfterValidator(checks.check_bind)] = "127.0.0.1:8000"
    web_concurrency: Annotated[int, Field(ge=1, le=256)] = 2
    provider_url: Annotated[str, AfterValidator(checks.check_http_url)] | None = None
    api_bootstrap_token: Token
    secret_key: Annotated[SecretStr, Field(min_length=16)]
    metrics_token: Token | None = None
    test_sends_per_minute: Annotated[int, Field(ge=0, le=10_000)] = 10
    # Limits of requests; 0 is none.
    requests_per_second: Annotated[float, Field(ge=0, le=1_000_000, allow_inf_nan=False)] = 200
    request_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    sign_ins_per_minute: Annotated[int, Field(ge=0, le=10_000)] = 20
    trusted_proxy_hops: Annotated[int, Field(ge=0, le=10)] = 0
    # An ISO 4217 code.
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    # The admin UI is enabled if the issuer is set.
    oidc_issuer: Annotated[str, AfterValidator(checks.check_https_url)] | None = None
    oidc_client_id: str | None = Field(default=None, validate_default=True)
    oidc_client_secret: SecretStr | None = None
    oidc_scopes: Annotated[str, Field(pattern=r"(^|\s)openid(\s|$)")] = "openid profile email"
    oidc_role_claim: Annotated[str, Field(min_length=1)] = "roles"
    # Pages of the demonstration's services, for the start page.
    demo_mail_page: Annotated[str, AfterValidator(checks.check_http_url)] | None = None
    demo_provider_page: Annotated[str, AfterValidator(checks.check_http_url)] | None = None
    public_url: Annotated[str, AfterValidator(checks.check_public_url)] | None = None

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


class WorkerSettings(FleetSettings):
    """Settings of control and dispatch workers."""

    provider_url: Annotated[str, AfterValidator(checks.check_http_url)]
    provider_token: Annotated[SecretStr, AfterValidator(checks.check_token)]
    journal_dir: Annotated[Path, AfterValidator(checks.check_folder)] | None = None


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
    if (refusal := find_unsuitable_secrets(dict(settings), os.environ)) is not None:
        sys.exit(refusal)
    values = [value for _, value in settings]
    register_secrets(v.get_secret_value() for v in values if isinstance(v, SecretStr))
    register_secrets(v for v in values if isinstance(v, str) and "://" in v)
    return settings
