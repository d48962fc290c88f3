"""Alembic's entry point: run the migrations on the application's database."""

import time

import click
from alembic import context
from flask import current_app
from sqlalchemy import Connection

from shared.db.metadata import metadata
from shared.db.schema import is_schema_newer

LOCK = "SELECT pg_try_advisory_lock(hashtext('migrations'))"
POLL_SECONDS = 0.5


def run_migrations() -> None:
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect() as connection:
        # Of two concurrent deployments the second waits for the lock, then finds nothing to do.
        _take_lock(connection)
        context.configure(
            connection=connection,
            target_metadata=metadata,
            # Building an index concurrently commits: what was done before is then complete.
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            if not _is_rolled_back():
                context.run_migrations()


def _take_lock(connection: Connection) -> None:
    """Wait for the lock by polling.

    A statement that waits for it has a snapshot, for which CREATE INDEX CONCURRENTLY of the other
    deployment would wait: a deadlock.
    """
    waiting = False
    while not connection.exec_driver_sql(LOCK).scalar():
        connection.commit()
        if not waiting:
            click.echo("waiting for the migrations of another deployment", err=True)
            waiting = True
        time.sleep(POLL_SECONDS)
    connection.commit()


def _is_rolled_back() -> bool:
    """Return whether the schema is newer than this version, which replaced the newer one."""
    here = context.get_context()
    if here.opts.get("destination_rev") != "head" or not is_schema_newer(
        here.get_current_revision()
    ):
        return False
    click.echo("the schema is of a newer version: left unchanged", err=True)
    return True


run_migrations()
