"""Ids of messages and batches are never given twice, whichever server is in charge."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from dev.stack.binaries import postgres_bin
from dev.stack.services import Postgres
from tests.support.migrated_postgres import MigratedPostgres
from tests.support.migrations import migrate
from tests.support.replication import Standby, execute
from tests.support.waiting import COMMAND_SECONDS

BILLION = 1_000_000_000
TAKE = "SELECT take_ids('{}', 10)"


def take_ids(server: Postgres, sequence: str = "message_ids") -> int:
    """Take ten ids; return the first."""
    ((first,),) = execute(server, TAKE.format(sequence))
    assert isinstance(first, int)
    return first


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Postgres]:
    """A server with a fresh database."""
    server = MigratedPostgres(tmp_path / "primary")
    server.start()
    yield server
    server.remove()


def test_ids_of_one_server_are_consecutive(primary: Postgres) -> None:
    assert [take_ids(primary) for _ in range(3)] == [1, 11, 21]
    assert [take_ids(primary, "batch_ids") for _ in range(3)] == [1, 11, 21]


def test_promoted_standby_skips_ids(primary: Postgres, tmp_path: Path) -> None:
    sequences = ("message_ids", "batch_ids")
    for sequence in sequences:
        take_ids(primary, sequence)
    standby = Standby(tmp_path / "standby", primary)
    standby.start()
    try:
        standby.stop()
        lost = max(take_ids(primary, sequence) for sequence in sequences)
        primary.kill()
        standby.start()
        standby.promote()
        for sequence in sequences:
            first = take_ids(standby, sequence)
            assert first > lost + BILLION
            assert take_ids(standby, sequence) == first + 10
    finally:
        standby.remove()


def test_restored_dump_skips_ids_each_time(primary: Postgres, tmp_path: Path) -> None:
    """Twice from the same dump: the second database skips the ids of the first one as well."""
    take_ids(primary)
    dump = tmp_path / "dump"
    run_client("pg_dump", "--format=custom", f"--file={dump}", primary.url)
    lost = take_ids(primary)
    given = {lost}
    for name in ("restored_1", "restored_2"):
        execute(primary, f"CREATE DATABASE {name}")
        run_client("pg_restore", "--no-owner", f"--dbname={primary.url_of(name)}", str(dump))
        primary.database = name
        first = take_ids(primary)
        assert first > lost + BILLION
        assert not given & {first, first + 10}
        given |= {first, take_ids(primary)}
        primary.database = "notifications"


def test_copied_files_skip_ids(primary: Postgres, tmp_path: Path) -> None:
    """A snapshot of the volume has the same system identifier and timeline."""
    take_ids(primary)
    primary.stop()
    snapshot = tmp_path / "snapshot"
    shutil.copytree(primary.data, snapshot)
    primary.start()
    lost = take_ids(primary)
    primary.stop()
    replace_files(snapshot, primary.data)
    primary.start()
    first = take_ids(primary)
    assert first > lost
    assert len(str(first)) == 15  # spreadsheets keep 15 digits


def test_database_of_an_earlier_version_skips_ids_once(primary: Postgres) -> None:
    """It may have been restored before the migration."""
    migrate(primary.url, "downgrade", "0008")
    lost = take_ids(primary)
    migrate(primary.url)
    first = take_ids(primary)
    assert first > lost + BILLION
    assert take_ids(primary) == first + 10


def test_concurrent_callers_of_a_new_server_do_not_wait_for_transactions(
    primary: Postgres,
) -> None:
    take_ids(primary)
    primary.stop()
    primary.start()
    connections = [psycopg2.connect(primary.url) for _ in range(2)]
    firsts = []
    for connection in (*connections, *connections):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '1s'")
            cursor.execute(TAKE.format("message_ids"))
            firsts += cursor.fetchall()
    assert [first - firsts[0][0] for (first,) in firsts] == [0, 10, 20, 30]
    connections[0].rollback()
    for connection in connections:
        connection.close()


def test_ordinary_role_may_take_ids(primary: Postgres) -> None:
    """Only functions that every role may execute are used."""
    execute(primary, "CREATE ROLE plain LOGIN PASSWORD 'plain'")
    execute(primary, "CREATE DATABASE of_plain OWNER plain")
    url = primary.url_of("of_plain").replace(f"postgres:{primary.password}@", "plain:plain@")
    migrate(url)
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(TAKE.format("message_ids"))
        assert cursor.fetchone() == (1,)
    connection.close()


def run_client(program: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(postgres_bin(None) / program), *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def replace_files(source: Path, target: Path) -> None:
    """Replace a stopped server's files; their owner stays."""
    owner = target.stat()
    shutil.rmtree(target)
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
