"""The settings of `make run`, from environment variables, and the stack's secrets."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.stack import StackError
from dev.stack.files import write_private
from dev.stack.ports import free_port, is_free
from shared.config.production import is_real

ROOT = Path(__file__).resolve().parents[2]
# The API's token where only demo services are involved: the same as docker-compose's.
DEMO_TOKEN = "demo-bootstrap-token"  # noqa: S105
_SECRETS = ("API_BOOTSTRAP_TOKEN", "SECRET_KEY", "PROVIDER_TOKEN")


@dataclass(frozen=True)
class Settings:
    """The variables of `make run`; a URL that is None is served by the stack itself."""

    api_port: int
    provider_port: int
    openid_port: int
    dispatch_workers: int
    directory: Path
    database_url: str | None
    redis_url: str | None
    provider_url: str | None
    oidc_issuer: str | None
    mail_port: int | None  # of the local mail server; None if SMTP_URL names another
    mail_page_port: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        if environment.get("PROVIDER_URL") and not environment.get("PROVIDER_TOKEN"):
            raise StackError(
                "PROVIDER_URL is set: set PROVIDER_TOKEN too, to that provider's token"
            )
        return cls(
            api_port=_parse_number(environment, "API_PORT", 8000),
            provider_port=_parse_number(environment, "PROVIDER_PORT", 8090),
            openid_port=_parse_number(environment, "OPENID_PORT", 8070),
            dispatch_workers=_parse_number(environment, "DISPATCH_WORKERS", 2, most=64),
            directory=Path(environment.get("LOCAL_DIR") or ROOT / ".local").absolute(),
            database_url=environment.get("DATABASE_URL") or None,
            redis_url=environment.get("REDIS_URL") or None,
            provider_url=environment.get("PROVIDER_URL") or None,
            oidc_issuer=environment.get("OIDC_ISSUER") or None,
            mail_port=None if environment.get("SMTP_URL") else free_port(),
            mail_page_port=free_port(),
        )

    @property
    def is_demo(self) -> bool:
        """Whether the stack uses only services that it starts itself."""
        return not (self.database_url or self.redis_url or self.provider_url or self.oidc_issuer)

    @property
    def has_demo_sign_in(self) -> bool:
        """Whether users are chosen without a password: never together with a real provider."""
        return self.oidc_issuer is None and not is_real(self.provider_url or "")

    def check_ports(self) -> None:
        """Raise StackError for a port that is taken or used twice."""
        wanted = {"API_PORT": self.api_port}
        if self.provider_url is None:
            wanted["PROVIDER_PORT"] = self.provider_port
        if self.has_demo_sign_in:
            wanted["OPENID_PORT"] = self.openid_port
        for name, port in wanted.items():
            same = [other for other, taken in wanted.items() if taken == port]
            if len(same) > 1:
                raise StackError(f"{' and '.join(same)} are both {port}")
            if not is_free(port):
                raise StackError(f"port {port} is taken: set {name} to another one")

    def load_secrets(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the environment's secrets; those it lacks are kept in secrets.env.

        Where only demo services are involved, the API's token is the demo's.
        """
        path = self.directory / "secrets.env"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = dict(line.split("=", 1) for line in lines if "=" in line)
        if any(not kept.get(name) for name in _SECRETS):
            kept = {name: kept.get(name) or secrets.token_urlsafe(32) for name in _SECRETS}
            write_private(path, "".join(f"{name}={value}\n" for name, value in kept.items()))
        if self.is_demo:
            kept["API_BOOTSTRAP_TOKEN"] = DEMO_TOKEN
        return {name: environment.get(name) or kept[name] for name in _SECRETS}


def _parse_number(
    environment: Mapping[str, str], name: str, default: int, most: int = 65535
) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise StackError(f"{name} is {text!r}: it must be a number from 1 to {most}")
    return int(text)
