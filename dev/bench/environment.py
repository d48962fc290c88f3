"""The service that a benchmark measures: databases, provider, API, workers, their use of CPU."""

import json
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
from typing import Any, Self

import psutil
import psycopg2
import requests

from dev.provider.client import ProviderControl
from dev.stack.ports import free_port
from dev.stack.processes import Program, start_process
from dev.stack.services import Postgres, Valkey
from dev.stack.settings import ROOT

TOKEN = "bench-token-bench-token"  # noqa: S105 (of a service that lives for a minute)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and its ended children; 0 if it has ended itself."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def list_children(pid: int) -> list[int]:
    """Return the pids of a process's direct children."""
    return [child.pid for child in psutil.Process(pid).children()]


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in megabytes."""
    return float(psutil.Process(pid).memory_info().rss / 1e6)


def mailing_body(tag: str) -> bytes:
    """Return the request that creates a mailing to the clients with this tag, which starts now."""
    now = time.time()
    start, end = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(t)) for t in (now, now + 3600))
    body = {"text": "Hello", "start_at": start, "end_at": end, "filter": {"tags": [tag]}}
    return json.dumps(body).encode()


class BenchEnvironment:
    """Everything but the dispatch workers runs from the beginning; those come and go.

    `provider` is the module that plays the provider.
    """

    def __init__(self, api_processes: int = 2, provider: str = "dev.bench.stub") -> None:
        self._provider_module = provider
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

    def __enter__(self) -> Self:
        self.postgres.start()
        self.valkey.start()
        self.environment = {
            **os.environ,
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": self.valkey.url,
            "PROVIDER_URL": self.provider.base_url,
            "PROVIDER_TOKEN": TOKEN,
            "API_BIND": f"127.0.0.1:{self.api_port}",
            "API_BOOTSTRAP_TOKEN": TOKEN,
            "SECRET_KEY": TOKEN,
            "REQUESTS_PER_SECOND": "0",
            "WEB_CONCURRENCY": str(self._api_processes),
            "PROMETHEUS_MULTIPROC_DIR": str(self.directory / "metrics"),
        }
        migrate = [sys.executable, "-m", "flask", "--app", "api", "db", "upgrade"]
        subprocess.run(migrate, cwd=ROOT, env=self.environment, check=True, capture_output=True)  # noqa: S603
        options = ("--port", str(self.provider_port), "--token", TOKEN)
        self.start_process("provider", self._provider_module, *options)
        self.start_process("api", "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()")
        self.start_process("scheduler", "worker", "scheduler")
        self.start_process("control", "worker", "control")
        self.start_process("sweep", "worker", "sweep")
        self.wait_for(self._is_ready, 60)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for name in list(self.processes):
            self.stop_process(name)
        if self._connection is not None:
            self._connection.close()
        self.valkey.remove()
        self.postgres.remove()
        if error is None:  # after an error the logs are kept
            shutil.rmtree(self.directory, ignore_errors=True)

    def start_process(self, name: str, *arguments: str, **settings: str) -> None:
        """Start a Python module of the service; its output goes to a log file."""
        argv = (sys.executable, "-m", *arguments)
        program = Program(name, argv, {**self.environment, **settings}, ROOT)
        self.processes[name] = start_process(program, self.directory / f"{name}.log")

    def stop_process(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @contextmanager
    def dispatchers(self, count: int, concurrency: int | None = 64) -> Iterator[list[int]]:
        """Run dispatch workers during the block; yield their pids. None is the default."""
        setting = "" if concurrency is None else str(concurrency)
        names = [f"dispatch-{n}" for n in range(1, count + 1)]
        for name in names:
            self.start_process(name, "worker", "dispatch", PROVIDER_CONCURRENCY=setting)
        time.sleep(2.5)  # their start is not measured
        try:
            yield [self.processes[name].pid for name in names]
        finally:
            for name in names:
                self.stop_process(name)
                (self.directory / f"{name}.log").unlink(missing_ok=True)

    def _is_ready(self) -> bool:
        try:
            ready = requests.get(f"http://127.0.0.1:{self.api_port}/readyz", timeout=2).ok
            return ready and bool(self.provider.stats())
        except requests.RequestException:
            return False

    def wait_for(self, condition: Callable[[], Any], seconds: float, interval: float = 0.1) -> Any:
        """Return the condition's first true value; raise TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds} s: {condition}")
            time.sleep(interval)
        return value

    def query(self, statement: str, *values: object, **named: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        if self._connection is None:
            # Reused: connecting costs more of PostgreSQL's CPU, which is measured, than a query.
            self._connection = psycopg2.connect(self.postgres.url)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(statement, named or values)
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
        """Create a mailing to the clients with this tag that starts now; return its id."""
        headers = {"Content-Type": "application/json"}
        address, body = f"{self.api}/mailings", mailing_body(tag)
        answer = self.http.post(address, data=body, headers=headers, timeout=30)
        answer.raise_for_status()
        return int(answer.json()["id"])

    def send_mailing(self, tag: str) -> int:
        """Create a mailing and wait until it is settled; return its id."""
        mailing_id = self.create_mailing(tag)
        self.wait_settled(mailing_id)
        return mailing_id

    def wait_settled(self, mailing_id: int) -> None:
        statement = "SELECT 1 FROM mailings WHERE id = %s AND settled"
        self.wait_for(lambda: self.query(statement, mailing_id), 900, interval=0.25)

    def sending_rate(self, mailing_id: int) -> float:
        """Return messages per second from the first acceptance until all were recorded."""
        statement = """
            SELECT count(*) / extract(epoch FROM
                (SELECT finished_at FROM mailings WHERE id = %s) - min(sent_at))
            FROM messages WHERE mailing_id = %s
        """
        return float(self.query(statement, mailing_id, mailing_id)[0][0])

    def postgres_cpu_seconds(self) -> float:
        pid = self.postgres.pid
        assert pid is not None  # noqa: S101
        return cpu_seconds(pid) + sum(cpu_seconds(child) for child in list_children(pid))

    def cpu_seconds_by_part(self) -> dict[str, float]:
        """Return the CPU time of PostgreSQL, of Valkey, and of the product's running processes."""
        parts = {
            "PostgreSQL": self.postgres_cpu_seconds(),
            "Valkey": cpu_seconds(self.valkey.pid or 0),
        }
        for name, process in self.processes.items():
            if name != "provider":
                part = name.partition("-")[0]
                used = sum(map(cpu_seconds, (process.pid, *list_children(process.pid))))
                parts[part] = parts.get(part, 0.0) + used
        return parts

    def wal_bytes(self) -> int:
        return int(self.query("SELECT pg_current_wal_lsn() - '0/0'")[0][0])
