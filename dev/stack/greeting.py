"""The text that `make run` prints when everything is ready."""

from collections.abc import Mapping
from pathlib import Path

from dev.stack.settings import DEMO_TOKEN, ROOT, Settings

TRY_IT = ROOT / "docs" / "examples" / "try-it.sh"
DEMO_NOTICE = """
This is a demonstration: the token is public, the sign-in asks for no password, and the provider
and the mail server are simulated.
"""


def make_greeting(
    settings: Settings, environment: Mapping[str, str], postgres_data: Path | None, seconds: float
) -> str:
    """Return the addresses of everything and the commands that send a first mailing."""
    api = f"http://127.0.0.1:{settings.api_port}"
    rows = {
        "start page": f"{api}/",
        "admin UI": _describe_admin(api, settings),
        "API": f"{api}/api/v1",
        "API docs": f"{api}/docs/",
        "API token": environment["API_BOOTSTRAP_TOKEN"],
        "metrics": f"{api}/metrics",
        "provider": environment["PROVIDER_URL"]
        + ("" if settings.provider_url else "  (simulated)"),
        "PostgreSQL": environment["DATABASE_URL"],
        "Redis": environment["REDIS_URL"],
        "data": _shorten(settings.directory),
        "logs": _shorten(settings.directory / "logs"),
    }
    if settings.mail_port is not None:
        rows["mail"] = f"http://127.0.0.1:{settings.mail_page_port}/  (the daily report)"
    if postgres_data is not None and not postgres_data.is_relative_to(settings.directory):
        rows["data"] += f", and PostgreSQL's in {postgres_data}"
    table = "\n".join(f"  {name:<11} {value}" for name, value in rows.items())
    return f"""
Ready in {seconds:.1f} s. Ctrl-C stops everything and keeps the data.
{DEMO_NOTICE if settings.is_demo else ""}
{table}

To send a first mailing, paste this into another terminal:

{try_it_commands(settings.api_port, environment["API_BOOTSTRAP_TOKEN"])}
"""


def _describe_admin(api: str, settings: Settings) -> str:
    if settings.has_demo_sign_in:
        return f"{api}/admin/  (demo sign-in)"
    if settings.oidc_issuer:
        return f"{api}/admin/"
    return "off: with a real provider it needs a real OIDC_ISSUER (docs/admin.md)"


def try_it_commands(api_port: int, token: str) -> str:
    """Return docs/examples/try-it.sh for this port and token."""
    text = TRY_IT.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{api_port}")
    return text.replace(DEMO_TOKEN, token)


def _shorten(path: Path) -> str:
    """Return a path relative to the current folder if it is inside it."""
    current = Path.cwd()
    return str(path.relative_to(current) if path.is_relative_to(current) else path)
