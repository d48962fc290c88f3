"""The API under gunicorn, as deployed: settings, metrics of all processes, logs, shutdown."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests
from psycopg2.extensions import cursor as Cursor

from dev.bench.environment import list_children
from dev.stack.ports import free_port
from tests.integration.conftest import TOKEN, value
from tests.support.api_server import COMMAND, Server, running, settings_of
from tests.support.system import ROOT
from tests.support.waiting import COMMAND_SECONDS, wait_for


@pytest.fixture(scope="module")
def settings(database_url: str, redis_url: str) -> dict[str, str]:
    return settings_of(database_url, redis_url)


@pytest.fixture(scope="module")
def server(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(settings, tmp_path_factory.mktemp("server")) as server:
        yield server


def served(server: Server) -> float:
    """Return how many lists of clients were served, by the metrics."""
    answer = server.http.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    found = re.search(
        r'flask_http_request_duration_seconds_count{[^}]*url_rule="/api/v1/clients"} ([0-9.]+)',
        answer.text,
    )
    return float(found[1]) if found else 0.0


# Prints how long one of two processes that has so many connections waits before it accepts one
# more, and an only process.
ACCEPT_SCRIPT = """
import time
from types import SimpleNamespace
from gunicorn.workers.gthread import ThreadWorker
from api.gunicorn_conf import ApiWorker

events = []
time.sleep, ThreadWorker.accept = events.append, lambda *_: events.append("accept")
for processes, connections in ((2, 0), (2, 1), (2, 7), (2, 1000), (1, 7)):
    worker = object.__new__(ApiWorker)
    worker.cfg, worker.nr_conns = SimpleNamespace(workers=processes), connections
    worker.accept(None)
print(*events)
"""


def test_processes_with_more_connections_leave_new_ones_to_others(settings: dict[str, str]) -> None:
    """Otherwise one process accepts 13 to 16 of 16, and the others are idle."""
    argv = [sys.executable, "-c", ACCEPT_SCRIPT]
    output = subprocess.check_output(
        argv, env=settings, cwd=ROOT, text=True, timeout=COMMAND_SECONDS
    )
    *events, last = output.split()[-9:]
    assert [*events[1::2], last] == ["accept"] * 5, "an only process does not wait"
    waits = [float(seconds) for seconds in events[::2]]
    assert waits == sorted(set(waits)), "each longer than the one before"
    assert waits[0] == 0.0
    assert waits[-1] < 0.01


def test_metrics_are_summed_over_processes_and_grouped_by_rule(server: Server) -> None:
    before = served(server)
    for _ in range(20):
        # A connection each, so that both processes are asked.
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert requests.get(f"{server.url}/api/v1/clients", headers=headers, timeout=5).ok
    assert {served(server) for _ in range(5)} == {before + 20}
    server.http.get(f"{server.url}/api/v1/clients/987654")
    server.http.request("BREW", f"{server.url}/api/v1/clients")
    metrics = server.http.get(f"{server.url}/metrics").text
    assert "987654" not in metrics
    assert "BREW" not in metrics


@pytest.mark.parametrize("token", [TOKEN, "wrong"])
@pytest.mark.parametrize("chunked", [False, True])
def test_rejected_body_leaves_the_connection_usable(
    server: Server, token: str, chunked: bool, request: pytest.FixtureRequest
) -> None:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body = (b" " * 65536 for _ in range(32)) if chunked else b" " * 2_000_000
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    request.addfinalizer(connection.close)
    connection.request("POST", "/api/v1/clients", body, headers, encode_chunked=chunked)
    answer = connection.getresponse()
    assert answer.status == (413 if token == TOKEN else 401)
    assert json.loads(answer.read())["status"] == answer.status
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 200


def test_more_connections_than_threads_are_all_served(server: Server) -> None:
    """A thread that stays with one connection must not keep the others waiting."""
    address = server.url.removeprefix("http://")
    connections = [HTTPConnection(address, timeout=5) for _ in range(40)]
    for _ in range(3):
        for connection in connections:
            connection.request("GET", "/healthz")
        for connection in connections:
            answer = connection.getresponse()
            assert answer.status == 200
            assert json.loads(answer.read()) == {"status": "ok"}
    for connection in connections:
        connection.close()


def test_killed_web_process_is_replaced(server: Server) -> None:
    assert server.process.popen
    server_pid = server.process.popen.pid
    killed, *_ = list_children(server_pid)
    os.kill(killed, signal.SIGKILL)

    def is_replaced() -> bool:
        present = list_children(server_pid)
        return len(present) == 2 and killed not in present

    wait_for(is_replaced, 20, "another process")
    wait_for(server.ready, 90, "the API")


def test_an_interrupted_import_imports_nothing(server: Server, database: Cursor) -> None:
    rows = b"phone,timezone\r\n79310000001,Europe/Moscow\r\n"
    head = (
        f"POST /api/v1/clients/import HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: text/csv\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    host, port = server.address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(rows), rows))
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")

    def is_forgotten() -> bool:
        database.execute("SELECT count(*) FROM imports")
        return bool(value(database) == 0)

    wait_for(is_forgotten, 30, "the end of the import")
    database.execute("SELECT count(*) FROM clients WHERE phone = 79310000001")
    assert value(database) == 0


def test_a_request_in_progress_is_answered_before_the_server_stops(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with running({**settings, "API_BIND": f"127.0.0.1:{free_port()}"}, tmp_path) as server:
        body = b'{"phone": "79320000001", "timezone": "Europe/Moscow"}'
        head = (
            f"POST /api/v1/clients HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        host, port = server.address.split(":")
        idle = HTTPConnection(server.address, timeout=10)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode())
            assert b"100 Continue" in connection.recv(65536)
            connection.sendall(body[:10])
            assert server.process.popen
            server.process.popen.terminate()
            assert idle.sock.recv(1) == b"", "the process has not noticed the signal"
            connection.sendall(body[10:])
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        head_received, _, document = answer.partition(b"\r\n\r\n")
        assert head_received.startswith(b"HTTP/1.1 201 ")
        assert json.loads(document)["phone"] == "79320000001"
        idle.close()
        assert server.process.popen.wait(10) == 0


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    ask = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: turn-{}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall("".join(ask.format(n) for n in range(5)).encode())
        answers = b""
        while answers.count(b'{"status":"ok"}') < 5:
            answers += connection.recv(65536)
    assert re.findall(rb"X-Request-ID: turn-(\d)", answers) == [b"0", b"1", b"2", b"3", b"4"]


def test_all_log_lines_are_json(server: Server) -> None:
    server.http.get(f"{server.url}/api/v1/clients", headers={"X-Request-ID": "logged"})
    wait_for(lambda: [x for x in server.log() if x.get("request_id") == "logged"], 30, "the line")
    assert {line["service"] for line in server.log()} == {"api"}


def test_sigterm_stops_the_server_and_leaves_no_files(
    settings: dict[str, str], tmp_path: Path
) -> None:
    with running({**settings, "API_BIND": f"127.0.0.1:{free_port()}"}, tmp_path) as server:
        assert list(server.temporary.glob("api-metrics-*/*.db"))
        assert server.process.stop(15) == 0
        assert not list(server.temporary.glob("api-metrics-*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_BOOTSTRAP_TOKEN", ""), ("SECRET_KEY", "short"), ("DATABASE_URL", "mysql://x")],
)
def test_invalid_setting_stops_the_server_with_one_line(
    settings: dict[str, str], name: str, value: str
) -> None:
    environment = {**os.environ, **settings, name: value}
    environment = {key: each for key, each in environment.items() if each}
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert name in done.stderr


HOOKS = """
import gc
from types import SimpleNamespace
from api import gunicorn_conf
gunicorn_conf.post_fork(None, None)
during = gc.isenabled()
gunicorn_conf.post_worker_init(SimpleNamespace(age=2))
print(during, gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def test_collections_of_garbage_pass_over_the_application(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """One of everything takes a sixth of a second, in which the process answers nothing."""
    environment = {**settings, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    output = subprocess.check_output(
        [sys.executable, "-c", HOOKS], cwd=ROOT, env=environment, text=True
    )
    assert output.split() == ["False", "True", "True"]


def test_commands_require_the_database_only(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "db", "upgrade"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
