"""A PostgreSQL standby that replicates from another server and can be promoted."""

from pathlib import Path

import psycopg2

from dev.stack.services import Postgres
from tests.support.waiting import wait_for


class Standby(Postgres):
    """A hot standby of `primary`, made by pg_basebackup at the first start."""

    def __init__(self, directory: Path, primary: Postgres) -> None:
        super().__init__(directory)
        self._primary = primary

    def promote(self) -> None:
        """Make this server a primary; return when it accepts writes."""
        execute(self, "SELECT pg_promote()")
        wait_for(lambda: not execute(self, "SELECT pg_is_in_recovery()")[0][0], 30, "the promotion")

    def _prepare(self) -> None:
        self._save_state(password=self._primary.password)
        super()._prepare()

    def _initialise(self) -> None:
        address = self._primary.url_of("postgres")
        name = f"application_name={self.directory.name}"
        draft = self.data.with_name("data.new")
        draft.mkdir(mode=0o700)
        self._give_to_account(draft)
        self._run(
            [
                *("pg_basebackup", "--pgdata", str(draft), "--dbname", f"{address}?{name}"),
                *("--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf"),
            ]
        )
        draft.rename(self.data)


def execute(server: Postgres, statement: str) -> list[tuple[object, ...]]:
    """Execute a statement in a transaction of its own; return its rows."""
    connection = psycopg2.connect(server.url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def require_synchronous_standby(primary: Postgres, standby: Standby) -> None:
    """Let commits wait for this standby, as synchronous_standby_names does."""
    name = standby.directory.name
    execute(primary, f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
    execute(primary, "SELECT pg_reload_conf()")
    states = "SELECT sync_state FROM pg_stat_replication"
    wait_for(lambda: execute(primary, states) == [("sync",)], 20, "a synchronous standby")
