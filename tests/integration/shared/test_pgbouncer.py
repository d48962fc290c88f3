"""The service behind a real PgBouncer: session mode works, transaction mode is refused at start."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest

from shared.db.connections import TransactionPooling, connect, exit_if_transactions_are_pooled
from tests.integration.conftest import TOKEN, make_app, make_client
from tests.support.api_server import COMMAND, settings_of
from tests.support.pgbouncer import PgBouncer
from tests.support.system import ROOT, System
from tests.support.waiting import COMMAND_SECONDS
from worker.runtime.database import Database

READ_SETTINGS = """
SELECT name, setting FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout',
    'idle_in_transaction_session_timeout', 'plan_cache_mode', 'TimeZone')
"""
WORKER_SETTINGS = {
    "statement_timeout": "30000",
    "lock_timeout": "5000",
    "idle_in_transaction_session_timeout": "10000",
    "plan_cache_mode": "force_generic_plan",
    "TimeZone": "UTC",
}


@contextmanager
def running_pgbouncer(database_url: str, mode: str, pool_size: int = 40) -> Iterator[PgBouncer]:
    pgbouncer = PgBouncer(database_url, mode, pool_size).start()
    try:
        yield pgbouncer
    finally:
        pgbouncer.stop()


@pytest.fixture(scope="module", params=["direct", "session"])
def url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    if request.param == "direct":
        yield database_url
        return
    with running_pgbouncer(database_url, "session") as pgbouncer:
        yield pgbouncer.url


@pytest.fixture(scope="module", params=["transaction", "statement"])
def transaction_url(request: pytest.FixtureRequest, database_url: str) -> Iterator[str]:
    with running_pgbouncer(database_url, request.param) as pgbouncer:
        yield pgbouncer.url


def test_workers_have_their_timeouts(url: str) -> None:
    db = Database(url, "test")
    try:
        with db.transaction() as cursor:
            cursor.execute(READ_SETTINGS)
            assert dict(cursor.fetchall()) == WORKER_SETTINGS
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    # A rollback does not undo them.
    with db.autocommit() as cursor:
        cursor.execute(READ_SETTINGS)
        assert dict(cursor.fetchall()) == WORKER_SETTINGS
    db.close()


def test_api_has_its_timeouts(url: str, redis_url: str) -> None:
    from api.db import db, fetch_all

    app = make_app(url, redis_url)
    with app.app_context():
        rows = fetch_all(db.text(READ_SETTINGS))
        settings = {row["name"]: row["setting"] for row in rows}
        db.engine.dispose()
    assert settings["statement_timeout"] == "10000"
    assert settings["lock_timeout"] == "5000"
    assert settings["TimeZone"] == "UTC"
    assert settings["plan_cache_mode"] == "force_generic_plan"


def test_next_client_of_a_pooled_connection_has_other_settings(database_url: str) -> None:
    with running_pgbouncer(database_url, "session", pool_size=3) as pgbouncer:
        for timeout in (30.0, 7.0, 30.0):
            db = Database(pgbouncer.url, "test", statement_timeout=timeout)
            with db.transaction() as cursor:
                cursor.execute("SHOW statement_timeout")
                assert cursor.fetchone() == (f"{timeout:.0f}s",)
            db.close()


def test_options_of_the_address_are_kept(database_url: str) -> None:
    connection = connect(
        f"{database_url}?options=-c%20work_mem%3D9MB", "test", {"lock_timeout": "3s"}, 5
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('work_mem'), current_setting('lock_timeout')")
        assert cursor.fetchone() == ("9MB", "3s")
    assert not connection.autocommit
    connection.close()


def test_exhausted_pool_is_an_outage_within_seconds(database_url: str, redis_url: str) -> None:
    with running_pgbouncer(database_url, "session", pool_size=2) as pgbouncer:
        app = make_app(pgbouncer.url, redis_url)
        holders = []
        for _ in range(2):
            holders.append(psycopg2.connect(pgbouncer.url))
            holders[-1].cursor().execute("SELECT 1")
        began = time.monotonic()
        answer = make_client(app).get("/api/v1/mailings")
        assert answer.status_code == 503
        assert time.monotonic() - began < 8
        for holder in holders:
            holder.close()
        assert make_client(app).get("/api/v1/mailings").status_code == 200
        with app.app_context():
            from api.db import db

            db.engine.dispose()


def test_mailing_is_sent_behind_a_session_pooler(tmp_path: Path) -> None:
    system = System(tmp_path, dispatchers=1, PROVIDER_TIMEOUT=2)
    try:
        system.postgres.start()
        with running_pgbouncer(system.postgres.url, "session") as pgbouncer:
            system.settings["DATABASE_URL"] = pgbouncer.url
            system.start()
            system.add_clients(700)
            done = system.wait_finished(system.create_mailing(), 60)
            assert done["counts"]["sent"] == 700
            system.check_totals()
    finally:
        system.stop()


def test_transaction_mode_is_found_while_others_use_the_pool(transaction_url: str) -> None:
    stop = threading.Event()

    def use() -> None:
        connection = psycopg2.connect(transaction_url)
        connection.autocommit = True
        while not stop.is_set():
            connection.cursor().execute("SELECT 1")
        connection.close()

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with pytest.raises(TransactionPooling):
                connect(transaction_url, "test", {}, 5)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "worker", "dispatch"],
        ["-m", "worker", "control"],
        ["-m", "flask", "--app", "api", "db", "upgrade"],
        COMMAND[1:],
    ],
    ids=["dispatch", "control", "migrations", "api"],
)
def test_transaction_mode_is_refused_at_start(
    transaction_url: str, redis_url: str, tmp_path: Path, command: list[str]
) -> None:
    environment = settings_of(transaction_url, redis_url)
    del environment["PROMETHEUS_MULTIPROC_DIR"]
    environment |= {"PROVIDER_URL": "http://127.0.0.1:9", "PROVIDER_TOKEN": "x", "PATH": "/bin"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**environment, "API_BOOTSTRAP_TOKEN": TOKEN, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "setting DATABASE_URL: leads to a connection pooler that shares" in output
    assert "session mode" in output


def test_outage_is_no_reason_to_end() -> None:
    exit_if_transactions_are_pooled("postgresql://user:password@127.0.0.1:9/none")
