"""Alembic's entry point: run the migrations on the application's database."""

import click
from alembic import context
from flask import current_app

from shared.db.metadata import metadata
from shared.db.schema import is_schema_newer


def run_migrations() -> None:
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect() as connection:
        # Of two concurrent deployments the second waits for the lock, then finds nothing to do.
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('migrations'))")
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            if not _is_rolled_back():
                context.run_migrations()


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
