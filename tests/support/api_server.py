"""Start the API under gunicorn, as it is deployed."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import requests

from dev.stack.ports import free_port
from tests.integration.conftest import TOKEN, UNLIMITED
from tests.support.system import Process
from tests.support.waiting import wait_for

COMMAND = [sys.executable, "-m", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"]
# What a server sends while its postmaster dies, which libpq may write to standard error by itself.
LIBPQ_NOTICE = "FATAL:  terminating connection due to unexpected postmaster exit"


def settings_of(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "API_BOOTSTRAP_TOKEN": TOKEN,
        "SECRET_KEY": "test-6b1f93d8c42e7a05",
        **UNLIMITED,
        "API_BIND": f"127.0.0.1:{free_port()}",
        "WEB_CONCURRENCY": "2",
        "PYTHONUNBUFFERED": "1",
        "PROMETHEUS_MULTIPROC_DIR": "",
    }


class Server:
    """A running gunicorn."""

    def __init__(
        self, settings: dict[str, str], directory: Path, options: Sequence[str] = ()
    ) -> None:
        own = {name: value for name, value in settings.items() if value}
        self.address = settings["API_BIND"]
        self.url = f"http://{self.address}"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        environment = {**own, "TMPDIR": str(self.temporary)}
        self.process = Process("api", [*COMMAND, *options], environment, directory / "api.log")
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"

    def ready(self) -> bool:
        try:
            return self.http.get(f"{self.url}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def log(self) -> list[dict[str, object]]:
        """Return the lines of the log that are complete; the last one may be being written."""
        complete = self.process.log.read_text().rpartition("\n")[0]
        lines = [line for line in complete.splitlines() if line]
        return [json.loads(line) for line in lines if not line.startswith(LIBPQ_NOTICE)]


@contextmanager
def running(
    settings: dict[str, str], directory: Path, options: Sequence[str] = ()
) -> Iterator[Server]:
    """Run a server that answers; stop it afterwards, also after an error."""
    server = Server(settings, directory, options)
    server.process.start()
    try:
        wait_for(server.ready, 90, "the API")
        yield server
    finally:
        server.process.kill()
