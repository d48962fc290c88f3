"""Deployments: concurrent migrations, rollback to an older version, and waiting workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from shared.db.schema import is_schema_applied
from tests.support.waiting import COMMAND_SECONDS, wait_for

ROOT = Path(__file__).parents[3]
UPGRADE = ("-m", "flask", "--app", "api", "db", "upgrade")
WAIT = ("-m", "shared.db.schema", "migrations")
# Programs that have asked for the lock, and are asleep until they ask again.
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND query IN ('COMMIT', 'SELECT pg_try_advisory_lock(hashtext(''migrations''))')
"""
# Statements that wait for a transaction of another program.
BUILDS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND query LIKE '%INDEX CONCURRENTLY%'
"""
INSERT = """
INSERT INTO clients (phone, operator_code, tag, timezone)
VALUES (%(phone)s, '916', '', 'Europe/Moscow') RETURNING 1
"""
UNUSABLE = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


class Database:
    """An empty database, and the programs started on it."""

    def __init__(self, server: str, name: str):
        self.url = f"{server.rsplit('/', 1)[0]}/{name}"
        self.connection = psycopg2.connect(self.url)
        self.connection.autocommit = True
        self.programs: list[subprocess.Popen[str]] = []

    def query(self, statement: str) -> int:
        with self.connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
        return int(row[0]) if row else 0

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        program = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "DATABASE_URL": self.url},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.programs.append(program)
        return program

    def run(self, *arguments: str) -> tuple[int, str]:
        program = self.start(*arguments)
        output, _ = program.communicate(timeout=COMMAND_SECONDS)
        return program.returncode, output


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    name = f"schema_{os.getpid()}"
    server = psycopg2.connect(postgres_url)
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    database = Database(postgres_url, name)
    yield database
    for program in database.programs:
        program.kill()
        program.communicate()
    database.connection.close()
    with server.cursor() as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


def test_concurrent_upgrades_run_one_after_the_other(database: Database) -> None:
    """Two pods of a new version start on an empty database."""
    database.query("SELECT 1 FROM pg_advisory_lock(hashtext('migrations'))")
    waiting = database.start(*WAIT)
    both = [database.start(*UPGRADE) for _ in range(2)]
    wait_for(lambda: database.query(WAITING) == 2, 30, "both upgrades wait for the lock")
    assert database.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    assert waiting.poll() is None, "the waiting program ended before the schema existed"
    database.query("SELECT 1 FROM (SELECT pg_advisory_unlock(hashtext('migrations'))) AS u")
    for program in both:
        output, _ = program.communicate(timeout=COMMAND_SECONDS)
        assert program.returncode == 0, output
    assert database.query("SELECT count(*) FROM alembic_version") == 1
    assert database.query(UNUSABLE) == 0
    output, _ = waiting.communicate(timeout=COMMAND_SECONDS)
    assert (waiting.returncode, output) == (0, "waiting for the migrations\n")


def test_indexes_of_large_tables_are_built_beside_writers(database: Database) -> None:
    """A transaction of the old version is open: the build waits for it, and other writers do not.

    Before, an interrupted build left an index that is not valid.
    """
    code, output = database.run(*UPGRADE, "0013")
    assert code == 0, output
    database.query("CREATE INDEX clients_updated_at ON clients (version); SELECT 0")
    other = psycopg2.connect(database.url)
    with other.cursor() as cursor:
        cursor.execute(INSERT, {"phone": 79160000001})
        upgrade = database.start(*UPGRADE)
        wait_for(lambda: database.query(BUILDS), 60, "the build waits for the transaction")
        database.query("SET lock_timeout = '5s'; SELECT 1")
        database.query(INSERT % {"phone": 79160000002})
    other.commit()
    other.close()
    output, _ = upgrade.communicate(timeout=COMMAND_SECONDS)
    assert upgrade.returncode == 0, output
    assert database.query(UNUSABLE) == 0
    assert database.query("SELECT count(*) FROM pg_indexes WHERE indexname = 'clients_words'") == 1


def test_older_version_leaves_a_newer_schema_unchanged(database: Database) -> None:
    database.query("CREATE TABLE alembic_version (version_num text); SELECT 0")
    database.query("INSERT INTO alembic_version VALUES ('9999') RETURNING 0")
    code, output = database.run(*UPGRADE)
    assert code == 0, output
    assert "newer" in output
    assert database.query("SELECT count(*) FROM alembic_version WHERE version_num = '9999'") == 1
    assert database.query("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1
    assert database.run(*WAIT) == (0, "")
    # Downgrading needs the version that has the migration.
    code, output = database.run(*UPGRADE[:-1], "downgrade", "base")
    assert code != 0, output


def test_waiting_program_reports_what_is_missing(database: Database) -> None:
    assert database.run(*WAIT[:-1], "database") == (0, "")
    database.url = database.url.replace("@", "-and-something@")
    program = database.start(*WAIT[:-1], "database")
    assert program.stdout
    output = program.stdout.readline()
    assert output.startswith("waiting for PostgreSQL: connection to server")
    assert "password authentication failed" in output
    assert str(urlsplit(database.url).password) not in output


def test_only_current_and_newer_schemas_are_accepted() -> None:
    assert not is_schema_applied(None)
    assert not is_schema_applied("0001")
    assert is_schema_applied("of a version that is yet to come")
