"""Deployments: many may migrate at once, a version may be taken back, and workers wait."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg2
import pytest

from shared.db.schema import is_schema_applied
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]
UPGRADE = ("-m", "flask", "--app", "api", "db", "upgrade")
WAIT = ("-m", "shared.db.schema", "migrations")
LOCKS = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Database:
    """An empty database, and programs that are let loose on it."""

    def __init__(self, server: str, name: str):
        self.url = f"{server.rsplit('/', 1)[0]}/{name}"
        self.connection = psycopg2.connect(self.url)
        self.connection.autocommit = True
        self.programs: list[subprocess.Popen[str]] = []

    def ask(self, statement: str) -> int:
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
        said, _ = program.communicate(timeout=60)
        return program.returncode, said


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


def test_two_upgrades_at_once_take_turns(database: Database) -> None:
    """As when two pods of a new version start on an empty database."""
    database.ask("SELECT 1 FROM pg_advisory_lock(hashtext('migrations'))")
    waiting = database.start(*WAIT)
    both = [database.start(*UPGRADE) for _ in range(2)]
    wait_for(lambda: database.ask(LOCKS) == 2, 30, "both wait for their turn")
    assert database.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    assert waiting.poll() is None, "what waits for the schema has seen it before it was there"
    database.ask("SELECT 1 FROM (SELECT pg_advisory_unlock(hashtext('migrations'))) AS u")
    for program in both:
        said, _ = program.communicate(timeout=60)
        assert program.returncode == 0, said
    assert database.ask("SELECT count(*) FROM alembic_version") == 1
    said, _ = waiting.communicate(timeout=30)
    assert (waiting.returncode, said) == (0, "waiting for the migrations\n")


def test_a_version_that_is_taken_back_leaves_the_newer_schema_as_it_is(database: Database) -> None:
    database.ask("CREATE TABLE alembic_version (version_num text); SELECT 0")
    database.ask("INSERT INTO alembic_version VALUES ('9999') RETURNING 0")
    code, said = database.run(*UPGRADE)
    assert code == 0, said
    assert "newer" in said
    assert database.ask("SELECT count(*) FROM alembic_version WHERE version_num = '9999'") == 1
    assert database.ask("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 1
    assert database.run(*WAIT) == (0, "")
    # Going further back is for the version that knows the way.
    code, said = database.run(*UPGRADE[:-1], "downgrade", "base")
    assert code != 0, said


def test_whoever_waits_says_for_what(database: Database) -> None:
    assert database.run(*WAIT[:-1], "database") == (0, "")
    database.url = database.url.replace("@", "-and-something@")
    program = database.start(*WAIT[:-1], "database")
    assert program.stdout
    said = program.stdout.readline()
    assert said.startswith("waiting for PostgreSQL: connection to server")
    assert "password authentication failed" in said
    assert str(urlsplit(database.url).password) not in said


def test_which_schema_will_do() -> None:
    assert not is_schema_applied(None)
    assert not is_schema_applied("0001")
    assert is_schema_applied("of a version that is yet to come")
