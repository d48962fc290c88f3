"""The programs of the local stack, in the order in which they start, and their environment."""

import http.client
import os
import sys
from collections.abc import Mapping
from functools import partial

from dev.mail import PASSWORD, USER
from dev.openid import CLIENT_SECRET
from dev.stack.files import memory_folder
from dev.stack.ports import accepts_connections
from dev.stack.processes import Program
from dev.stack.settings import ROOT, Settings

# A stage needs the stages before it; stages are stopped in reverse order.
SERVICES, DEMO, PRODUCT = range(3)


def product_environment(
    settings: Settings, secrets: Mapping[str, str], database_url: str, redis_url: str
) -> dict[str, str]:
    """Return the settings of all of the product's processes."""
    environment = {
        **secrets,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "PROVIDER_URL": settings.provider_url or f"http://127.0.0.1:{settings.provider_port}",
        "API_BIND": f"127.0.0.1:{settings.api_port}",
        "JOURNAL_DIR": str(settings.directory / "journals"),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.provider_url is None:
        environment["DEMO_PROVIDER_PAGE"] = f"{environment['PROVIDER_URL']}/control/requests"
    if settings.has_demo_sign_in:
        environment |= {
            "OIDC_ISSUER": f"http://127.0.0.1:{settings.openid_port}",
            "OIDC_CLIENT_ID": "notifications",
            "OIDC_CLIENT_SECRET": CLIENT_SECRET,
            "PUBLIC_URL": f"http://127.0.0.1:{settings.api_port}",
        }
    if settings.mail_port is not None:
        login = f"{USER.decode()}:{PASSWORD.decode()}@" if settings.is_demo else ""
        environment |= {
            "SMTP_URL": f"smtp://{login}127.0.0.1:{settings.mail_port}?starttls=never",
            "DEMO_MAIL_PAGE": f"http://127.0.0.1:{settings.mail_page_port}",
            "REPORT_RECIPIENTS": os.environ.get("REPORT_RECIPIENTS") or "report@example.com",
        }
    return environment


def migrations(environment: Mapping[str, str]) -> Program:
    argv = (sys.executable, "-m", "flask", "--app", "api", "db", "upgrade")
    return Program("migrations", argv, environment, ROOT)


def demo_programs(settings: Settings, environment: Mapping[str, str]) -> list[Program]:
    """Return the stand-ins for external services, unless the environment names real ones."""

    def program(name: str, port: int, *argv: str) -> Program:
        argv = (sys.executable, "-m", f"dev.{name}", "--port", str(port), *argv)
        is_ready = partial(accepts_connections, port)
        return Program(name, argv, environment, ROOT, stage=DEMO, is_ready=is_ready)

    programs = []
    if settings.provider_url is None:
        programs.append(program("provider", settings.provider_port))
    if settings.has_demo_sign_in:
        programs.append(program("openid", settings.openid_port))
    if settings.mail_port is not None:
        folder, page_port = str(settings.directory / "mail"), str(settings.mail_page_port)
        mail = program("mail", settings.mail_port, "--dir", folder, "--page-port", page_port)
        programs.append(mail)
    return programs


def product_programs(settings: Settings, environment: Mapping[str, str]) -> list[Program]:
    """Return the product's own processes."""

    def worker(name: str, role: str) -> Program:
        argv = (sys.executable, "-m", "worker", role)
        # It has no readiness check; configuration errors show in its first two seconds.
        return Program(name, argv, environment, ROOT, stage=PRODUCT, settle_seconds=2.0)

    api = Program(
        "api",
        (sys.executable, "-m", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"),
        {**environment, "PROMETHEUS_MULTIPROC_DIR": str(memory_folder(settings.directory))},
        ROOT,
        stage=PRODUCT,
        is_ready=partial(answers_ok, settings.api_port, "/readyz"),
    )
    names = (f"dispatch-{number}" for number in range(1, settings.dispatch_workers + 1))
    dispatchers = [worker(name, "dispatch") for name in names]
    workers = [worker(name, name) for name in ("scheduler", "control", "sweep", "report")]
    return [api, *workers, *dispatchers]


def answers_ok(port: int, path: str) -> bool:
    """Return whether an HTTP server on 127.0.0.1 answers 200 to this path."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
