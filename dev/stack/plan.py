"""What the local stack consists of: its settings, its secrets, its process table, its greeting."""

import http.client
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.stack import StackError
from dev.stack.ports import accepts_connections, free_port, is_free
from dev.stack.processes import Program
from dev.stack.service import write_private

ROOT = Path(__file__).resolve().parents[2]
# What a stage needs runs in the stages before it; stages are stopped in reverse.
SERVICES, MIGRATIONS, PROVIDER, PRODUCT = range(4)
_SECRETS = ("API_BOOTSTRAP_TOKEN", "SECRET_KEY", "PROVIDER_TOKEN")


@dataclass(frozen=True)
class Settings:
    """The variables of `make run`."""

    api_port: int
    provider_port: int
    openid_port: int
    dispatch_workers: int
    directory: Path
    database_url: str | None
    redis_url: str | None
    provider_url: str | None
    oidc_issuer: str | None
    mail_port: int | None  # of the local mail server; None where a real one is named
    mail_page_port: int  # where it shows what it caught

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        if environment.get("PROVIDER_URL") and not environment.get("PROVIDER_TOKEN"):
            raise StackError(
                "PROVIDER_URL is set: set PROVIDER_TOKEN too, to that provider's token"
            )
        return cls(
            api_port=_number(environment, "API_PORT", 8000, 1, 65535),
            provider_port=_number(environment, "PROVIDER_PORT", 8090, 1, 65535),
            openid_port=_number(environment, "OPENID_PORT", 8070, 1, 65535),
            dispatch_workers=_number(environment, "DISPATCH_WORKERS", 2, 1, 64),
            directory=Path(environment.get("LOCAL_DIR") or ROOT / ".local").absolute(),
            database_url=environment.get("DATABASE_URL") or None,
            redis_url=environment.get("REDIS_URL") or None,
            provider_url=environment.get("PROVIDER_URL") or None,
            oidc_issuer=environment.get("OIDC_ISSUER") or None,
            mail_port=None if environment.get("SMTP_URL") else free_port(),
            mail_page_port=free_port(),
        )

    def check_ports(self) -> None:
        """Name a taken port before anything is started."""
        wanted = {"API_PORT": self.api_port}
        if self.provider_url is None:
            wanted["PROVIDER_PORT"] = self.provider_port
        if self.oidc_issuer is None:
            wanted["OPENID_PORT"] = self.openid_port
        for name, port in wanted.items():
            same = [other for other, taken in wanted.items() if taken == port]
            if len(same) > 1:
                raise StackError(f"{' and '.join(same)} are both {port}")
            if not is_free(port):
                raise StackError(f"port {port} is taken: set {name} to another one")


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise StackError(f"{name} is {text!r}: it must be a number from {least} to {most}")
    return int(text)


def load_secrets(directory: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment's secrets; those it lacks are made once and kept in secrets.env."""
    path = directory / "secrets.env"
    kept = {}
    if path.exists():
        lines = path.read_text().splitlines()
        kept = dict(line.split("=", 1) for line in lines if "=" in line)
    missing = [name for name in _SECRETS if not kept.get(name)]
    if missing:
        kept.update({name: secrets.token_urlsafe(32) for name in missing})
        write_private(path, "".join(f"{name}={kept[name]}\n" for name in _SECRETS))
    return {name: environment.get(name) or kept[name] for name in _SECRETS}


def product_environment(
    settings: Settings, keys: Mapping[str, str], database_url: str, redis_url: str
) -> dict[str, str]:
    """The settings that all of the product's processes are given."""
    return {
        **keys,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PROVIDER_URL": settings.provider_url or f"http://127.0.0.1:{settings.provider_port}",
        "API_BIND": f"127.0.0.1:{settings.api_port}",
        "PYTHONUNBUFFERED": "1",
        **_sign_in(settings),
        **_mail(settings),
    }


def _sign_in(settings: Settings) -> dict[str, str]:
    """The admin UI at the demo provider, unless a real one is named in the environment."""
    if settings.oidc_issuer is not None:
        return {}
    return {
        "OIDC_ISSUER": f"http://127.0.0.1:{settings.openid_port}",
        "OIDC_CLIENT_ID": "notifications",
        "OIDC_CLIENT_SECRET": "of no consequence here",
        "PUBLIC_URL": f"http://127.0.0.1:{settings.api_port}",
    }


def _mail(settings: Settings) -> dict[str, str]:
    """The daily report to a local mail server, unless a real one is named in the environment."""
    if settings.mail_port is None:
        return {}
    return {
        "SMTP_URL": f"smtp://127.0.0.1:{settings.mail_port}?starttls=never",
        "REPORT_RECIPIENTS": os.environ.get("REPORT_RECIPIENTS") or "report@example.com",
    }


def process_table(settings: Settings, env: Mapping[str, str]) -> list[Program]:
    """Everything but the services, in the order of starting."""

    def python(*arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", *arguments)

    def worker(name: str, role: str) -> Program:
        argv = python("worker", role)
        # It says nothing when it is ready; what is wrong with it shows while it starts.
        return Program(name, argv, env, ROOT, stage=PRODUCT, settles_in=2.0)

    port, provider_port = settings.api_port, settings.provider_port
    migrate = python("flask", "--app", "api", "db", "upgrade")
    table = [Program("migrations", migrate, env, ROOT, stage=MIGRATIONS)]
    if settings.provider_url is None:
        simulate = python("dev.provider", "--port", str(provider_port))
        table.append(
            Program(
                "provider",
                (*simulate, "--token", env["PROVIDER_TOKEN"]),
                env,
                ROOT,
                stage=PROVIDER,
                is_ready=lambda: accepts_connections(provider_port),
            )
        )
    if settings.oidc_issuer is None:
        openid_port = settings.openid_port
        table.append(
            Program(
                "openid",
                python("dev.openid", "--port", str(openid_port)),
                env,
                ROOT,
                stage=PROVIDER,
                is_ready=lambda: accepts_connections(openid_port),
            )
        )
    if settings.mail_port is not None:
        mail_port = settings.mail_port
        keep = ("--dir", str(settings.directory / "mail"))
        show = ("--page-port", str(settings.mail_page_port))
        table.append(
            Program(
                "mail",
                python("dev.mail", "--port", str(mail_port), *keep, *show),
                env,
                ROOT,
                stage=PROVIDER,
                is_ready=lambda: accepts_connections(mail_port),
            )
        )
    table.append(
        Program(
            "api",
            python("gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"),
            {**env, "PROMETHEUS_MULTIPROC_DIR": str(settings.directory / "metrics")},
            ROOT,
            stage=PRODUCT,
            is_ready=lambda: answers_ok(port, "/readyz"),
        )
    )
    table += [worker("scheduler", "scheduler"), worker("control", "control")]
    for number in range(1, settings.dispatch_workers + 1):
        table.append(worker(f"dispatch-{number}", "dispatch"))
    return table


def answers_ok(port: int, path: str) -> bool:
    """Whether an HTTP server on 127.0.0.1 answers 200 here."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def greeting(settings: Settings, env: Mapping[str, str], seconds: float) -> str:
    """Where everything is, and what to paste to send a first mailing."""
    simulated = "" if settings.provider_url else "  (simulated)"
    demo = "" if settings.oidc_issuer else "  (sign in as one of three demo people)"
    in_an_hour = "-v+1H" if sys.platform == "darwin" else "-d '+1 hour'"
    directory = os.path.relpath(settings.directory)
    page = f"http://127.0.0.1:{settings.mail_page_port}/"
    mail = (
        f"\n  mail        {page}  (the daily report is caught there)" if settings.mail_port else ""
    )
    return f"""
Ready in {seconds:.1f} s. Ctrl-C stops everything; the data stays in {directory}.

  admin UI    http://127.0.0.1:{settings.api_port}/admin/{demo}
  API         http://127.0.0.1:{settings.api_port}/api/v1
  docs        http://127.0.0.1:{settings.api_port}/docs/
  metrics     http://127.0.0.1:{settings.api_port}/metrics
  provider    {env["PROVIDER_URL"]}{simulated}
  PostgreSQL  {env["DATABASE_URL"]}
  Redis       {env["REDIS_URL"]}
  token       {env["API_BOOTSTRAP_TOKEN"]}
  logs        {directory}/logs/{mail}

To send a first mailing, paste this into another terminal:

API=http://127.0.0.1:{settings.api_port}/api/v1
call() {{ curl -sS -H 'Authorization: Bearer {env["API_BOOTSTRAP_TOKEN"]}' \
-H 'Content-Type: application/json' "$@"; echo; }}
call $API/clients -d '{{"phone": "79161234567", "tag": "vip", "timezone": "Europe/Moscow"}}'
call $API/mailings -d '{{"text": "Hello", "filter": {{"operator_codes": [], "tags": ["vip"]}},
  "start_at": "'$(date -u +%FT%TZ)'", "end_at": "'$(date -u {in_an_hour} +%FT%TZ)'"}}'
sleep 2; call $API/statistics

"""
