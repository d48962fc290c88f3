"""The whole product as real processes, which a test can start, stop, freeze or kill."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import requests

from dev.provider.client import ProviderControl
from dev.stack.ports import free_port
from dev.stack.services import Postgres, Valkey
from tests.support.invariants import check_totals
from tests.support.migrated_postgres import MigratedPostgres
from tests.support.waiting import COMMAND_SECONDS, wait_for

ROOT = Path(__file__).parents[2]
AS_IN_THE_IMAGE = Path(__file__).parent / "as_in_the_image"
TOKEN = "test-0e7c4a95b3f81d62"
PROVIDER_TOKEN = "test-provider-token"


class Process:
    """One process of the product, its output in a log file; `cwd` has its code."""

    def __init__(
        self, name: str, argv: list[str], env: dict[str, str], log: Path, cwd: Path = ROOT
    ):
        self.name, self.argv, self.env, self.log, self._cwd = name, argv, env, log, cwd
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.popen = subprocess.Popen(
                self.argv,
                cwd=self._cwd,
                env={**os.environ, "PYTHONPATH": str(AS_IN_THE_IMAGE), **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            assert self.popen
            os.killpg(self.popen.pid, number)

    def stop(self, within: float = 15.0) -> int | None:
        """Send SIGTERM and return the exit code; send SIGKILL to the group if it does not end."""
        if self.popen is None:
            return None
        if self.running:
            self.popen.terminate()
            try:
                self.popen.wait(within)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(f"{self.name} did not stop within {within} s") from None
        return self.popen.returncode

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self.popen:
            self.popen.wait()

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)


class System:
    """PostgreSQL, Valkey, the simulated provider, the API, the scheduler and the workers.

    `settings` are environment variables of the product's processes.
    """

    def __init__(self, directory: Path, dispatchers: int = 2, **settings: object):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.postgres: Postgres = MigratedPostgres(directory / "postgres")
        self.valkey = Valkey(directory / "valkey")
        self.api_port, self.provider_port = free_port(), free_port()
        self.settings = {name: str(value) for name, value in settings.items()}
        self.provider = ProviderControl(f"http://127.0.0.1:{self.provider_port}")
        self.processes: dict[str, Process] = {}
        self.dispatchers = [f"dispatch-{n}" for n in range(1, dispatchers + 1)]
        self._next_phone = 79000000001
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"

    # --- processes -----------------------------------------------------------------------------

    def start(self) -> "System":
        self.postgres.start()
        self.valkey.start()
        self._add(
            "provider",
            *("dev.provider", "--port", str(self.provider_port), "--token", PROVIDER_TOKEN),
        )
        self._add("api", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()")
        self._add("scheduler", "worker", "scheduler")
        self._add("control", "worker", "control")
        self._add("sweep", "worker", "sweep")
        if "SMTP_URL" in self.settings:
            self._add("report", "worker", "report")
        for name in self.dispatchers:
            self._add(name, "worker", "dispatch")
        for process in self.processes.values():
            process.start()
        wait_for(self.provider_ready, 90, "the provider")
        wait_for(self.api_ready, 90, "the API")
        return self

    def stop(self) -> None:
        for process in self.processes.values():
            process.thaw()
            process.kill()
        self.http.close()
        self.provider.close()
        self.valkey.remove()
        self.postgres.remove()

    def _add(self, name: str, *arguments: str) -> Process:
        argv = [sys.executable, "-m", *arguments]
        log = self.directory / f"{name}.log"
        self.processes[name] = Process(name, argv, self.environment, log)
        return self.processes[name]

    def add_process(self, name: str, *arguments: str) -> Process:
        process = self._add(name, *arguments)
        process.start()
        return process

    def __getitem__(self, name: str) -> Process:
        return self.processes[name]

    @property
    def database_url(self) -> str:
        """The address of PostgreSQL for the product's processes."""
        return self.postgres.url

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url,
            "PROVIDER_URL": f"http://127.0.0.1:{self.provider_port}",
            "PROVIDER_TOKEN": PROVIDER_TOKEN,
            "API_BIND": f"127.0.0.1:{self.api_port}",
            "API_BOOTSTRAP_TOKEN": TOKEN,
            "SECRET_KEY": secrets.token_hex(16),
            "WEB_CONCURRENCY": "1",
            # Tests call the API faster than callers may.
            "REQUESTS_PER_SECOND": "0",
            "SIGN_INS_PER_MINUTE": "0",
            "PYTHONUNBUFFERED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.directory / "metrics"),
            "JOURNAL_DIR": str(self.directory / "journals"),
            # Files of killed processes are deleted with the directory.
            "TMPDIR": str(self.directory),
            **self.settings,
        }

    def run(self, *arguments: str) -> str:
        """Run a command of the product to its end; return its output."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def api_ready(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.api_port}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def provider_ready(self) -> bool:
        try:
            return bool(self.provider.stats())
        except requests.RequestException:
            return False

    # --- API -----------------------------------------------------------------------------------

    def call(self, method: str, path: str, expect: int | None = None, **kwargs: Any) -> Any:
        answer = self.http.request(
            method, f"http://127.0.0.1:{self.api_port}/api/v1{path}", timeout=30, **kwargs
        )
        if expect is not None:
            assert answer.status_code == expect, f"{answer.status_code}: {answer.text}"
        else:
            assert answer.ok, f"{method} {path}: {answer.status_code}: {answer.text}"
        return answer.json() if answer.content else None

    def create_mailing(self, starts_in: float = 0.0, lasts: float = 3600.0, **fields: Any) -> int:
        """Create a mailing that starts and ends relative to now, in seconds; return its id."""
        now = time.time()
        body = {
            "text": "Hello",
            "start_at": rfc3339(now + starts_in),
            "end_at": rfc3339(now + starts_in + lasts),
            **fields,
        }
        return int(self.call("POST", "/mailings", json=body, expect=201)["id"])

    def statistics(self, mailing_id: int) -> dict[str, Any]:
        answer: dict[str, Any] = self.call("GET", f"/mailings/{mailing_id}/statistics")
        return answer

    def wait_finished(self, mailing_id: int, seconds: float = 60.0) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            now = self.statistics(mailing_id)
            return now if now["status"] in ("finished", "cancelled") else None

        return wait_for(finished, seconds, f"mailing {mailing_id} finished")

    # --- database ------------------------------------------------------------------------------

    @contextmanager
    def database(self) -> Iterator[psycopg2.extensions.cursor]:
        connection = psycopg2.connect(self.postgres.url)
        try:
            with connection, connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self.database() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall()

    def new_phones(self, count: int) -> list[int]:
        """Return phones, one after the other, that this method has never returned before.

        Tests that share a system take theirs here, so that none depends on which ran before it.
        """
        first, self._next_phone = self._next_phone, self._next_phone + count
        return list(range(first, first + count))

    def new_phone(self) -> int:
        return self.new_phones(1)[0]

    def add_clients(
        self, count: int, tag: str = "", zones: tuple[str, ...] = ("Europe/Moscow",)
    ) -> None:
        """Insert clients in bulk, with new phones after the highest existing one."""
        with self.database() as cursor:
            cursor.execute("SELECT coalesce(max(phone), 0) FROM clients")
            ((highest,),) = cursor.fetchall()
            self._next_phone = max(self._next_phone, highest + 1)
            cursor.execute(
                """
                INSERT INTO clients (phone, operator_code, tag, timezone)
                SELECT p, substr(p::text, 2, 3), %s, (%s::text[])[1 + n %% %s]
                FROM unnest(%s::bigint[]) WITH ORDINALITY AS numbered (p, n) ORDER BY n
                """,
                (tag, list(zones), len(zones), self.new_phones(count)),
            )

    def check_totals(self) -> None:
        """Assert that the totals of every mailing are right, however they are counted."""
        check_totals(self.postgres.url)


def rfc3339(at: float) -> str:
    """Format an instant in seconds since the epoch for the API."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{whole}.{int(at % 1 * 1_000_000):06d}Z"
