"""The embedded PostgreSQL and Valkey: started, stopped, killed, and keeping what they were told."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dev.stack import StackError
from dev.stack.processes import identity
from dev.stack.service import Service
from dev.stack.services import Postgres, Valkey


def data_directory(postgres: Postgres) -> Path:
    return Path(run(postgres, "SHOW data_directory"))


def run(postgres: Postgres, statement: str) -> str:
    connection = psycopg2.connect(postgres.url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return str(cursor.fetchone()[0]) if cursor.description else ""
    finally:
        connection.close()


@pytest.fixture(scope="module")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One cluster for this module, as making one takes a second."""
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    run(server, "CREATE TABLE kept (value integer)")
    yield server
    server.remove()


@pytest.fixture
def postgres(shared_postgres: Postgres) -> Postgres:
    """The cluster, running, whatever the test before did to it."""
    shared_postgres.start()
    run(shared_postgres, "TRUNCATE kept")
    return shared_postgres


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    server.start()
    yield server
    server.remove()


def end(server: Service, how: str) -> None:
    """Stop the server in the given way; nothing of it may be left."""
    pid = server.pid
    assert pid is not None
    server.kill() if how == "kill" else server.stop()
    assert identity(pid) is None
    assert server.pid is None


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_postgres_keeps_data_and_address(postgres: Postgres, how: str) -> None:
    url = postgres.url
    run(postgres, "INSERT INTO kept VALUES (7)")
    end(postgres, how)
    again = Postgres(postgres.directory)
    again.start()
    try:
        assert again.url == url
        assert run(again, "SELECT value FROM kept") == "7"
    finally:
        again.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_valkey_keeps_data_and_address(valkey: Valkey, how: str) -> None:
    url = valkey.url
    with redis.Redis.from_url(url) as client:
        client.set("kept", "7")
        client.execute_command("WAITAOF", 1, 0, 5000)
    end(valkey, how)
    valkey.start()
    assert valkey.url == url
    with redis.Redis.from_url(url) as client:
        assert client.get("kept") == b"7"


def test_postgres_is_durable_and_private(postgres: Postgres) -> None:
    assert run(postgres, "SHOW fsync") == "on"
    assert run(postgres, "SHOW synchronous_commit") == "on"
    assert run(postgres, "SHOW timezone") == "UTC"
    assert run(postgres, "SHOW listen_addresses") == "127.0.0.1"
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(postgres.url.replace(postgres.password, "wrong"))


def test_valkey_demands_its_password(valkey: Valkey) -> None:
    with (
        redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.exceptions.AuthenticationError),
    ):
        client.ping()


def test_kill_leaves_no_child_of_postgres(postgres: Postgres) -> None:
    connection = psycopg2.connect(postgres.url)
    backend = connection.info.backend_pid
    assert identity(backend) is not None
    postgres.kill()
    assert identity(backend) is None
    connection.close()


def test_stale_pid_of_an_innocent_process(postgres: Postgres) -> None:
    """PostgreSQL itself would take the process for a running server, and not start."""
    data = data_directory(postgres)
    pid_file = data / "postmaster.pid"
    left = pid_file.read_text().split("\n", 1)[1]
    postgres.kill()
    owner = data.stat()
    user = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    innocent = subprocess.Popen(["sleep", "60"], **user)
    try:
        pid_file.write_text(f"{innocent.pid}\n{left}")
        postgres.start()
        assert innocent.poll() is None
        assert run(postgres, "SELECT 1") == "1"
    finally:
        innocent.kill()
        innocent.wait()


_ABANDON = """
import os, sys
from pathlib import Path
from dev.stack import processes
from dev.stack.services import Postgres
processes._prctl = None  # as on a system that does not let children die with their parent
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
    assert identity(abandoned) is not None
    postgres.start()
    assert identity(abandoned) is None
    assert run(postgres, "SELECT 1") == "1"


def test_one_server_at_a_time(postgres: Postgres) -> None:
    with pytest.raises(StackError, match="already running"):
        Postgres(postgres.directory).start()
    assert run(postgres, "SELECT 1") == "1"
