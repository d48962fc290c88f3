"""The settings of every process, read once from the environment and checked at start.

A missing or malformed variable stops the process with one line that names it.
Each setting is documented in the README's table.
"""

import sys
import zoneinfo
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


def _known_zone(name: str) -> str:
    if name not in zoneinfo.available_timezones():
        raise ValueError("must be an IANA time zone, for example Europe/Moscow")
    return name


def _postgresql_url(url: str) -> str:
    if not url.startswith(("postgresql://", "postgres://")):
        raise ValueError("must start with postgresql://")
    return "postgresql://" + url.split("://", 1)[1]


def _redis_url(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must start with redis://, rediss:// or unix://")
    return url


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return url.rstrip("/")


class DatabaseSettings(BaseSettings):
    """What commands on the database need, such as migrations."""

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore")

    database_url: Annotated[str, AfterValidator(_postgresql_url)]
    log_level: Annotated[str, Field(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = "json"


class Settings(DatabaseSettings):
    """What every process needs."""

    redis_url: Annotated[str, AfterValidator(_redis_url)]


class ApiSettings(Settings):
    """What the web process needs besides."""

    api_bootstrap_token: Annotated[SecretStr, Field(min_length=16)]
    secret_key: Annotated[SecretStr, Field(min_length=16)]
    default_timezone: Annotated[str, AfterValidator(_known_zone)] | None = None


class WorkerSettings(Settings):
    """What the fleet needs besides."""

    provider_url: Annotated[str, AfterValidator(_http_url)]
    provider_token: SecretStr
    provider_timeout: Annotated[float, Field(gt=0, le=120)] = 10.0
    provider_concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    provider_rate: Annotated[float, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=5_000)] = 500
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 50

    @property
    def lease_seconds(self) -> float:
        """How long a claimed batch stays its worker's without renewal.

        Longer than any request may last, so that nothing of a live worker is in flight when its
        lease runs out.
        """
        return self.provider_timeout + 10.0


S = TypeVar("S", bound=DatabaseSettings)


def load_settings(kind: type[S]) -> S:
    """Read `kind` from the environment, or end the process with a line that names what is wrong."""
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        name = str(first["loc"][0]).upper()
        if first["type"] == "missing":
            problem = "is not set"
        else:
            problem = first["msg"].removeprefix("Value error, ")
        sys.exit(f"setting {name}: {problem} (the README documents every setting)")
