"""Alembic's entry point: runs the migrations on the application's database."""

import click
from alembic import context
from flask import current_app

from shared.db.metadata import metadata
from shared.db.schema import is_schema_newer


def run_migrations() -> None:
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect() as connection:
        # Two deployments may migrate at once: the second one waits, then finds nothing to do.
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('migrations'))")
        connection.commit()
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            if not _taken_back():
                context.run_migrations()


def _taken_back() -> bool:
    """Whether an upgrade meets a newer schema: this version was put back in a newer one's place."""
    here = context.get_context()
    if here.opts.get("destination_rev") != "head" or not is_schema_newer(
        here.get_current_revision()
    ):
        return False
    click.echo("the schema is a newer version's: left as it is", err=True)
    return True


run_migrations()
