"""Services for the tests: started when first needed, one set per test process."""

import itertools
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import psycopg2
import pytest
from redis import Redis

from dev.stack.services import Valkey
from tests.support import migrated_postgres
from tests.support.fleet import Fleet
from tests.support.migrated_postgres import MigratedPostgres
from tests.support.migrations import migrate
from tests.support.system import System

_names = itertools.count(1)

# Tests start hundreds of the product's processes. Where the environment forbids to keep compiled
# code, each would compile all of it, which takes a fifth of the time in which the API starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Files and folders from those that take longest to those that take least, because processes side by
# side take one file after the other: a long one at the end would leave the other process idle.
LONGEST_FIRST = (
    "tests/integration/api/test_schemathesis.py",
    "tests/integration/api/test_generated_clients.py",
    "tests/integration/worker/test_redis_outages.py",
    "tests/integration/worker/test_rate_limiter.py",
    "tests/chaos/",
    "tests/integration/worker/",
    "tests/e2e/",
    "tests/deploy/",
    "tests/security/",
    "tests/integration/api/",
    "tests/integration/",
    "tests/unit/",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_duration_rank)


def _duration_rank(item: pytest.Item) -> int:
    ranks = (n for n, name in enumerate(LONGEST_FIRST) if item.nodeid.startswith(name))
    return next(ranks, len(LONGEST_FIRST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one on CI, where everything must run."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must not be skipped on CI: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Share the migrated cluster with the other test processes of this run."""
    own = tmp_path_factory.getbasetemp()
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    migrated_postgres.run_directory = own.parent if parallel else own


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL server: TEST_DATABASE_URL's, or one of our own, with the present schema."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = MigratedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server.url
    server.remove()


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str) -> Iterator[str]:
    """The name of a database with the present schema, to be copied."""
    name = f"template_{os.getpid()}"
    if "TEST_DATABASE_URL" in os.environ:
        _execute(postgres_url, f"CREATE DATABASE {name}")
        migrate(_with_database(postgres_url, name))
    else:
        _execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {MigratedPostgres.database}")
    yield name
    _execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def database_url(postgres_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh, migrated database for this module."""
    name = f"test_{os.getpid()}_{next(_names)}"
    _execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield _with_database(postgres_url, name)
    _execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def fleet(database_url: str) -> Iterator[Fleet]:
    """Mailings and fake workers in this module's database; their totals are checked at the end."""
    with Fleet(database_url) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def module_fleet(database_url: str) -> Iterator[Fleet]:
    """The same, shared by the tests of this module."""
    with Fleet(database_url) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis server: TEST_REDIS_URL's, or one of our own."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        # Test processes side by side empty their own database, not each other's.
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        yield f"{given.removesuffix('/').removesuffix('/0')}/{worker}"
        return
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server.url
    server.remove()


@pytest.fixture(scope="module")
def redis_url(valkey: str) -> str:
    """An emptied Redis database for this module."""
    Redis.from_url(valkey).flushdb()
    return valkey


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The whole product running, for this module."""
    system = System(Path(tmp_path_factory.mktemp("system")))
    try:
        yield system.start()
    finally:
        system.stop()


def _execute(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def _with_database(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"
