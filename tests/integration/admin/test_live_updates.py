"""Fifty open dashboards on a real server cause one statement per second for their figures."""

import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import requests

from api.people.sessions import CACHE_SECONDS
from dev.bench.environment import cpu_seconds, list_children
from dev.stack.ports import free_port
from tests.integration.conftest import TOKEN, make_app
from tests.support.admin_sessions import sign_in_as
from tests.support.migrated_postgres import MigratedPostgres
from tests.support.system import Process
from tests.support.waiting import wait_for

VIEWERS = 50
PROCESSES = 2
SECONDS = 6.0
RECONNECT_SECONDS = 1.5  # as a browser after `retry: 1500`
SECRET = "test-6b1f93d8c42e7a05"
# A statement begins with the application's name; its further lines are indented.
STATEMENT = re.compile(r"^api LOG: +(?:statement|execute [^:]+): (.*(?:\n\t.*)*)", re.MULTILINE)
# Statements around transactions, and the one that sets up a connection: a thread that serves its
# first viewer during the measurement opens one.
OVERHEAD = re.compile(
    r"\s*(BEGIN|COMMIT|ROLLBACK|SET|SHOW|SELECT 1\s*$|SELECT pg_backend_pid\(\), set_config"
    r"|select pg_catalog|;)",
    re.I,
)


class Server:
    """The API with two processes, on a PostgreSQL that logs every statement."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        log = {"log_statement": "all", "log_line_prefix": "%a "}
        self.postgres = MigratedPostgres(directory / "postgres", settings=log)
        self.postgres.start()
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.settings = {
            "OIDC_ISSUER": "http://127.0.0.1:9",
            "OIDC_CLIENT_ID": "notifications",
            "PUBLIC_URL": self.address,
        }
        environment = {
            "DATABASE_URL": self.postgres.url,
            "REDIS_URL": redis_url,
            "API_BIND": f"127.0.0.1:{port}",
            "API_BOOTSTRAP_TOKEN": TOKEN,
            "SECRET_KEY": SECRET,
            "WEB_CONCURRENCY": str(PROCESSES),
            "PROMETHEUS_MULTIPROC_DIR": str(directory / "metrics"),
            **self.settings,
        }
        python = [sys.executable, "-m"]
        argv = [*python, "gunicorn", "-c", "api/gunicorn_conf.py", "api:create_app()"]
        self.process = Process("api", argv, environment, directory / "api.log")
        self.process.start()
        wait_for(self._ready, 90, "the API")
        self.cookie = self._cookie(redis_url)

    def _ready(self) -> bool:
        try:
            return requests.get(f"{self.address}/readyz", timeout=2).ok
        except requests.RequestException:
            return False

    def _cookie(self, redis_url: str) -> str:
        """Return the session cookie of a signed-in viewer."""
        app = make_app(self.postgres.url, redis_url, SECRET_KEY=SECRET, **self.settings)
        client = app.test_client()
        sign_in_as(app, client, "viewer", self.address)
        cookie = client.get_cookie("admin_session", domain="127.0.0.1", path="/admin")
        assert cookie is not None
        return cookie.value

    def viewer(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.cookies.set("admin_session", self.cookie, path="/admin")
        return session

    def statements(self) -> list[str]:
        """Return the statements that the API has sent so far."""
        text = self.postgres.log.read_text()
        return [found for found in STATEMENT.findall(text) if not OVERHEAD.match(found)]

    def cpu(self) -> float:
        assert self.process.popen
        pid = self.process.popen.pid
        return cpu_seconds(pid) + sum(map(cpu_seconds, list_children(pid)))

    def stop(self) -> None:
        self.process.kill()
        self.postgres.remove()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[Server]:
    server = Server(Path(tmp_path_factory.mktemp("server")), redis_url)
    try:
        yield server
    finally:
        server.stop()


def test_fifty_dashboards_cause_one_statement_per_second(server: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    now = time.time()
    body = {
        "text": "Hello",
        "start_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 600)),
        "end_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + 3600)),
    }
    made = requests.post(f"{server.address}/api/v1/mailings", json=body, headers=headers, timeout=9)
    assert made.status_code == 201
    page = server.viewer().get(f"{server.address}/admin/", timeout=10)
    assert page.status_code == 200
    assert "data-overview" in page.text
    answers: list[str] = []
    stop = threading.Event()

    def poll(n: int) -> None:
        session = server.viewer()
        stop.wait(RECONNECT_SECONDS * n / VIEWERS)
        while not stop.is_set():
            answer = session.get(f"{server.address}/admin/live", timeout=10)
            answer.raise_for_status()
            answers.append(answer.text)
            stop.wait(RECONNECT_SECONDS)

    threads = [threading.Thread(target=poll, args=(n,)) for n in range(VIEWERS)]
    for thread in threads:
        thread.start()
    time.sleep(RECONNECT_SECONDS)  # all of them have connected
    before, sent, cpu, began = len(answers), len(server.statements()), server.cpu(), time.time()
    time.sleep(SECONDS)
    served, elapsed = len(answers) - before, time.time() - began
    statements, cpu = server.statements()[sent:], server.cpu() - cpu
    # Each process looks up a session once in five seconds; all viewers share one here.
    lookups = [each for each in statements if "find_admin_session" in each]
    statements = [each for each in statements if each not in lookups]
    assert len(lookups) <= 2 * PROCESSES * (elapsed / CACHE_SECONDS + 1), lookups
    stop.set()
    for thread in threads:
        thread.join()
    assert served > VIEWERS * elapsed / (2 * RECONNECT_SECONDS), (
        "fewer than half of them were served"
    )
    event = orjson.loads(answers[-1].partition("data: ")[2])
    assert event["health"]["state"] == "idle"
    # One per second, and perhaps one more at each edge.
    assert len(statements) <= elapsed + 2, statements
    assert len(statements) >= elapsed / 2 - 1, "the figures are not refreshed"
    assert all("WHERE NOT settled AND deleted" in each for each in statements), statements
    print(
        f"{VIEWERS} dashboards: {served / elapsed:.0f} answers/s, "
        f"{len(statements) / elapsed:.2f} statements/s, {100 * cpu / elapsed:.0f} % of a core, "
        f"{1000 * cpu / served:.1f} ms each"
    )
