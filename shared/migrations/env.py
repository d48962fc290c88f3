"""Alembic's entry point: runs the migrations on the application's database."""

from alembic import context
from flask import current_app

from shared.models import Base


def run_migrations() -> None:
    engine = current_app.extensions["migrate"].db.engine
    with engine.connect() as connection:
        # Two deployments may migrate at once: the second one waits, then finds nothing to do.
        connection.exec_driver_sql("SELECT pg_advisory_lock(hashtext('migrations'))")
        connection.commit()
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            context.run_migrations()


run_migrations()
