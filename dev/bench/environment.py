"""A product of its own for a measurement: services, provider, API, fleet, and what they consume."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import requests

from dev.provider.client import ProviderControl
from dev.stack.ports import free_port
from dev.stack.services import Postgres, Valkey

ROOT = Path(__file__).parent.parent.parent
TOKEN = "bench-token-bench-token"  # noqa: S105 (of a service that lives for a minute)
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that have ended; 0 if it has too."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_mb(pid: int) -> float:
    """Resident memory of a process, in megabytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Rig:
    """Everything but the dispatchers runs from the beginning; those come and go."""

    def __init__(self, api_processes: int = 2):
        self.directory = Path(tempfile.mkdtemp(prefix="bench-"))
        self.postgres = Postgres(self.directory / "postgres")
        self.valkey = Valkey(self.directory / "valkey")
        self.api_port, self.provider_port = free_port(), free_port()
        self.provider = ProviderControl(f"http://127.0.0.1:{self.provider_port}")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._connection: psycopg2.extensions.connection | None = None
        self._api_processes = api_processes
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.headers["Authorization"] = f"Bearer {TOKEN}"
        self.api = f"http://127.0.0.1:{self.api_port}/api/v1"

    def __enter__(self) -> "Rig":
        self.postgres.start()
        self.valkey.start()
        self.environment = {
            **os.environ,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "PROVIDER_URL": f"http://127.0.0.1:{self.provider_port}",
            "PROVIDER_TOKEN": TOKEN,
            "API_BIND": f"127.0.0.1:{self.api_port}",
            "API_BOOTSTRAP_TOKEN": TOKEN,
            "SECRET_KEY": TOKEN,
            "WEB_CONCURRENCY": str(self._api_processes),
            "PROMETHEUS_MULTIPROC_DIR": str(self.directory / "metrics"),
        }
        migrate = [sys.executable, "-m", "flask", "--app", "api", "db", "upgrade"]
        subprocess.run(migrate, cwd=ROOT, env=self.environment, check=True, capture_output=True)  # noqa: S603
        self.run("provider", "dev.bench.stub", "--port", str(self.provider_port), "--token", TOKEN)
        self.run("api", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()")
        self.run("scheduler", "worker", "scheduler")
        self.run("control", "worker", "control")
        self.wait(self._ready, 60)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for name in list(self.processes):
            self.end(name)
        if self._connection is not None:
            self._connection.close()
        self.valkey.remove()
        self.postgres.remove()
        if error is None:  # or the logs may say why
            shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, name: str, *arguments: str, **settings: str) -> None:
        """Start a process of the product; its output goes to a file."""
        with (self.directory / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env={**self.environment, **settings},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def dispatchers(self, count: int, concurrency: int = 64) -> Iterator[list[int]]:
        """Dispatch workers while the block runs; their pids."""
        names = [f"dispatch-{n}" for n in range(1, count + 1)]
        for name in names:
            self.run(name, "worker", "dispatch", PROVIDER_CONCURRENCY=str(concurrency))
        time.sleep(2.5)  # their start is not what is measured
        try:
            yield [self.processes[name].pid for name in names]
        finally:
            for name in names:
                self.end(name)
                (self.directory / f"{name}.log").unlink(missing_ok=True)

    def _ready(self) -> bool:
        try:
            ready = requests.get(f"http://127.0.0.1:{self.api_port}/readyz", timeout=2).ok
            return ready and bool(self.provider.stats())
        except requests.RequestException:
            return False

    # --- work ----------------------------------------------------------------------------------

    def wait(self, condition: Callable[[], Any], seconds: float, every: float = 0.1) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(every)
        return value

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        if self._connection is None:
            # One for all: opening one costs PostgreSQL more than most questions, and is counted.
            self._connection = psycopg2.connect(self.postgres.url)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def add_clients(self, count: int, tag: str) -> None:
        self.query(
            """
            INSERT INTO clients (phone, operator_code, tag, timezone)
            SELECT p, substr(p::text, 2, 3), %s,
                (ARRAY['Europe/Moscow', 'Asia/Omsk', 'Asia/Kamchatka'])[1 + p %% 3]
            FROM (SELECT n + (SELECT coalesce(max(phone), 79000000000) FROM clients) AS p
                  FROM generate_series(1, %s) AS n) AS numbered
            """,
            tag,
            count,
        )
        self.query("ANALYZE clients")

    def create_mailing(self, tag: str) -> int:
        now = time.time()
        times = [time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t)) for t in (now, now + 3600)]
        body = {
            "text": "Hello",
            "start_at": times[0],
            "end_at": times[1],
            "filter": {"tags": [tag]},
        }
        answer = self.http.post(f"{self.api}/mailings", json=body, timeout=30)
        answer.raise_for_status()
        return int(answer.json()["id"])

    def wait_finished(self, mailing_id: int, seconds: float = 900) -> None:
        statement = "SELECT 1 FROM mailings WHERE id = %s AND settled"
        self.wait(lambda: self.query(statement, mailing_id), seconds, every=0.25)

    def rate(self, mailing_id: int) -> float:
        """Messages per second from the first acceptance to when all were recorded and counted."""
        statement = """
            SELECT count(*) / extract(epoch FROM
                (SELECT finished_at FROM mailings WHERE id = %s) - min(sent_at))
            FROM messages WHERE mailing_id = %s
        """
        return float(self.query(statement, mailing_id, mailing_id)[0][0])

    def postgres_cpu(self) -> float:
        pid = self.postgres.pid
        assert pid is not None  # noqa: S101
        return cpu_seconds(pid) + sum(cpu_seconds(child) for child in children(pid))

    def wal_bytes(self) -> int:
        return int(self.query("SELECT pg_current_wal_lsn() - '0/0'")[0][0])
