"""Migrations produce exactly the models' schema, and can be reversed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection, create_engine, inspect, text

from shared.db.metadata import metadata
from tests.support.fleet import Fleet
from tests.support.migrations import migrate

ROOT = Path(__file__).parents[3]


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    engine = create_engine(database_url.replace("postgresql:", "postgresql+psycopg2:"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def is_ours(connection: Connection) -> Any:
    """Return a filter that excludes partitions, which are created at run time."""
    partitions = set(
        connection.execute(text("SELECT relname FROM pg_class WHERE relispartition")).scalars()
    )

    def include(thing: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
        table = name if kind == "table" else thing.table.name
        return table not in partitions

    return include


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={
            "compare_type": True,
            "compare_server_default": True,
            "include_object": is_ours(connection),
        },
    )
    return list(compare_metadata(context, metadata))


def checks(connection: Connection) -> dict[str, set[str]]:
    """Return the names of check constraints, which Alembic does not compare."""
    rows = connection.execute(
        text(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint JOIN pg_class c"
            " ON c.oid = conrelid WHERE contype = 'c' AND NOT c.relispartition"
        )
    )
    found: dict[str, set[str]] = {}
    for table, constraint in rows:
        found.setdefault(table, set()).add(constraint)
    return found


def test_migrations_produce_the_models_schema(database_url: str, connection: Connection) -> None:
    with Fleet(database_url) as fleet:
        fleet.add_launched_mailing(1)  # creates partitions, which are not a difference
    assert differences(connection) == [], "write a migration for what the models have changed"
    expected = {
        table.name: {
            str(constraint.name)
            for constraint in table.constraints
            if isinstance(constraint, CheckConstraint)
        }
        for table in metadata.sorted_tables
    }
    assert checks(connection) == {name: names for name, names in expected.items() if names}


def test_comparison_detects_a_difference(connection: Connection) -> None:
    """The test above relies on the comparison."""
    connection.execute(text("ALTER TABLE clients DROP COLUMN tag"))
    connection.execute(text("CREATE INDEX extra ON minutes (count)"))
    found = {entry[0] for entry in differences(connection)}
    connection.rollback()
    assert {"add_column", "remove_index"} <= found


def test_downgrade_and_upgrade_restore_the_schema(
    postgres_url: str, database_url: str, connection: Connection
) -> None:
    """Downgrade to an empty database, with data and partitions, and upgrade again."""
    with Fleet(database_url) as fleet:
        fleet.add_launched_mailing(2)
    migrate(database_url, "downgrade", "base")
    assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    assert not connection.execute(
        text(
            "SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace"
            " AND typtype = 'e' UNION ALL SELECT proname FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace"
        )
    ).all()
    connection.rollback()
    migrate(database_url, "upgrade")
    migrate(database_url, "upgrade")  # no error if nothing is to be done
    assert differences(connection) == []
    connection.rollback()
    with Fleet(database_url) as fleet:
        mailing_id = fleet.add_launched_mailing(2)
        assert fleet.count_statuses(mailing_id) == {"pending": 2}


def test_migrations_have_one_head() -> None:
    heads = ScriptDirectory(str(ROOT / "shared/migrations")).get_heads()
    assert len(heads) == 1, "two migrations have the same parent: merge them"
