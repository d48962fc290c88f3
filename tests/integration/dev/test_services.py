"""The embedded PostgreSQL and Valkey: start, stop, kill, and durability."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev.stack import StackError
from dev.stack.processes import is_running
from dev.stack.service import Service
from dev.stack.services import Postgres, Valkey
from shared.db.rows import fetch_one_row


def pid_runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and is_running(psutil.Process(pid))


def data_directory(postgres: Postgres) -> Path:
    return Path(query(postgres, "SHOW data_directory"))


def query(postgres: Postgres, statement: str) -> str:
    connection = psycopg2.connect(postgres.url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return str(fetch_one_row(cursor)[0]) if cursor.description else ""
    finally:
        connection.close()


@pytest.fixture(scope="module")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One cluster for this module, as creating one takes a second."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    query(server, "CREATE TABLE kept (value integer)")
    yield server
    server.remove()


@pytest.fixture
def postgres(shared_postgres: Postgres) -> Postgres:
    """The running cluster with an empty table."""
    shared_postgres.start()
    query(shared_postgres, "TRUNCATE kept")
    return shared_postgres


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.remove()


def end_server(server: Service, how: str) -> None:
    """Stop the server in the given way and check that no process is left."""
    pid = server.pid
    assert pid is not None
    server.kill() if how == "kill" else server.stop()
    assert not pid_runs(pid)
    assert server.pid is None


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_keeps_data_and_url(postgres: Postgres, how: str) -> None:
    url = postgres.url
    query(postgres, "INSERT INTO kept VALUES (7)")
    end_server(postgres, how)
    again = Postgres(postgres.directory)
    again.start()
    try:
        assert again.url == url
        assert query(again, "SELECT value FROM kept") == "7"
    finally:
        again.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_valkey_keeps_data_and_url(valkey: Valkey, how: str) -> None:
    url = valkey.url
    with redis.Redis.from_url(url) as client:
        client.set("kept", "7")
        client.execute_command("WAITAOF", 1, 0, 5000)
    end_server(valkey, how)
    valkey.start()
    assert valkey.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"7"


def test_postgres_is_durable_and_private(postgres: Postgres) -> None:
    assert query(postgres, "SHOW fsync") == "on"
    assert query(postgres, "SHOW synchronous_commit") == "on"
    assert query(postgres, "SHOW timezone") == "UTC"
    assert query(postgres, "SHOW listen_addresses") == "127.0.0.1"
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(postgres.url.replace(postgres.password, "wrong"))


def test_valkey_requires_its_password(valkey: Valkey) -> None:
    with (
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()


def test_kill_leaves_no_child_of_postgres(postgres: Postgres) -> None:
    connection = psycopg2.connect(postgres.url)
    backend = connection.info.backend_pid
    assert pid_runs(backend)
    postgres.kill()
    assert not pid_runs(backend)
    connection.close()


def test_start_with_the_pid_file_of_an_unrelated_process(postgres: Postgres) -> None:
    """PostgreSQL itself would take the process for a running server and not start."""
    data = data_directory(postgres)
    pid_file = data / "postmaster.pid"
    left = pid_file.read_text().split("\n", 1)[1]
    postgres.kill()
    owner = data.stat()
    user: dict[str, Any] = (
        {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    )
    unrelated = subprocess.Popen(["sleep", "60"], **user)
    try:
        pid_file.write_text(f"{unrelated.pid}\n{left}")
        postgres.start()
        assert unrelated.poll() is None
        assert query(postgres, "SELECT 1") == "1"
    finally:
        unrelated.kill()
        unrelated.wait()


_ABANDON = """
import os, sys
from pathlib import Path
from dev.stack import processes
from dev.stack.services import Postgres
processes._prctl = None  # as on a system without parent death signals
server = Postgres(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_server_of_a_killed_parent_is_replaced(postgres: Postgres) -> None:
    postgres.stop()
    arguments = [sys.executable, "-c", _ABANDON, str(postgres.directory)]
    parent = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    abandoned = int(parent.stdout)
    assert pid_runs(abandoned)
    postgres.start()
    assert not pid_runs(abandoned)
    assert query(postgres, "SELECT 1") == "1"


def test_second_server_in_a_folder_is_refused(postgres: Postgres) -> None:
    with pytest.raises(StackError, match="already running"):
        Postgres(postgres.directory).start()
    assert query(postgres, "SELECT 1") == "1"
