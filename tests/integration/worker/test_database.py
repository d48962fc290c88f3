"""The worker's connection to PostgreSQL: reopened after errors, and never left on a standby."""

from collections.abc import Iterator

import psycopg2
import pytest
import structlog
from structlog.testing import capture_logs

from dev.stack.services import Postgres
from shared.db.connections import TRANSIENT_ERRORS
from shared.db.rows import fetch_one_row
from tests.support.replication import Standby
from tests.support.tcp_proxy import TcpProxy
from worker.dispatch import db_thread
from worker.dispatch.db_thread import log_database_error
from worker.runtime.database import Database

MAKE_READ_ONLY = "SET default_transaction_read_only = on"


def write(db: Database) -> None:
    with db.transaction() as cursor:
        cursor.execute("SELECT txid_current()")
        cursor.execute("CREATE TABLE IF NOT EXISTS written ()")


def test_connection_to_a_read_only_server_is_replaced(database_url: str) -> None:
    db = Database(database_url, "test")
    with db.transaction() as cursor:
        cursor.execute(MAKE_READ_ONLY)
    with pytest.raises(TRANSIENT_ERRORS) as caught:
        write(db)
    assert caught.value.pgcode == "25006"
    write(db)
    db.close()


def test_read_only_server_is_logged_as_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of its own, because the module's logger keeps the configuration of its first use.
    monkeypatch.setattr(db_thread, "log", structlog.get_logger())
    with capture_logs() as lines:
        log_database_error("record", psycopg2.errors.ReadOnlySqlTransaction("read-only"))
    assert [line["event"] for line in lines] == ["database.unavailable"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Standby]]:
    """A primary and its standby."""
    folder = tmp_path_factory.mktemp("servers")
    primary = Postgres(folder / "primary")
    standby = Standby(folder / "standby", primary)
    primary.start()
    standby.start()
    yield primary, standby
    standby.remove()
    primary.remove()


def test_standby_is_refused_until_the_address_leads_to_the_primary(
    servers: tuple[Postgres, Standby],
) -> None:
    primary, standby = servers
    target: Postgres = standby
    with TcpProxy(lambda: target.port) as proxy:
        db = Database(primary.url.replace(f":{primary.port}/", f":{proxy.port}/"), "test")
        with pytest.raises(psycopg2.OperationalError, match="read-only"):
            write(db)
        target = primary
        write(db)
        db.close()


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_hosts_the_primary_is_used(
    servers: tuple[Postgres, Standby], order: int
) -> None:
    primary, standby = servers
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in (primary, standby)[::order])
    db = Database(primary.url.replace(f"127.0.0.1:{primary.port}", hosts), "test")
    with db.transaction() as cursor:
        cursor.execute("SELECT inet_server_port()")
        assert fetch_one_row(cursor) == (primary.port,)
    write(db)
    db.close()


def test_standby_is_used_if_the_address_says_so(servers: tuple[Postgres, Standby]) -> None:
    _, standby = servers
    db = Database(f"{standby.url}?target_session_attrs=any", "test")
    with pytest.raises(psycopg2.errors.ReadOnlySqlTransaction):
        write(db)
    db.close()
