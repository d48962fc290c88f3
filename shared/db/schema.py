"""Checks whether the database has the schema of this version; as a program, waits until it has.

    python -m shared.db.schema database      ends when PostgreSQL accepts connections
    python -m shared.db.schema migrations    ends when another process has applied the migrations

Containers that must not start earlier run it first.
"""

import sys
import time
from functools import cache
from pathlib import Path

import psycopg2
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.config.settings import DatabaseSettings, load_settings
from shared.db.connections import primary_only
from shared.logging.redaction import redact

MIGRATIONS_PATH = Path(__file__).parents[1] / "migrations"

APPLIED = "SELECT version_num FROM alembic_version"
POLL_SECONDS = 1.0


def is_schema_applied(revision: str | None) -> bool:
    """Return whether a database at `revision` has the schema of this version or of a newer one.

    The newer version may be in deployment, or was rolled back: after a migration the previous
    version of the code still works.
    """
    known, head = _revisions()
    return revision is not None and (revision == head or revision not in known)


def is_schema_newer(revision: str | None) -> bool:
    """Return whether `revision` belongs to a newer version than this."""
    return revision is not None and revision not in _revisions()[0]


@cache
def _revisions() -> tuple[frozenset[str], str | None]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_PATH).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    return frozenset(s.revision for s in scripts.walk_revisions()), scripts.get_current_head()


def _find_missing(database_url: str, step: str) -> str | None:
    """Return what is missing for `step`, in words; None if nothing is."""
    try:
        connection = psycopg2.connect(  # type: ignore[call-overload]
            database_url, connect_timeout=5, **primary_only(database_url)
        )
    except psycopg2.Error as error:
        return f"PostgreSQL: {redact(str(error)).strip().splitlines()[0]}"
    try:
        if step == "database":
            return None
        with connection, connection.cursor() as cursor:
            cursor.execute(APPLIED)
            row = cursor.fetchone()
    except psycopg2.errors.UndefinedTable:
        return "the migrations"
    except psycopg2.Error as error:
        return f"PostgreSQL: {redact(str(error)).strip().splitlines()[0]}"
    finally:
        connection.close()
    return None if row and is_schema_applied(row[0]) else "the migrations"


def wait_for_schema(step: str) -> None:
    """Return when `step` ("database" or "migrations") is reached; print what is missing."""
    url = load_settings(DatabaseSettings).database_url
    reported = None
    while (missing := _find_missing(url, step)) is not None:
        if missing != reported:
            print(f"waiting for {missing}", file=sys.stderr, flush=True)
            reported = missing
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:] not in (["database"], ["migrations"]):
        sys.exit("usage: python -m shared.db.schema database | migrations")
    wait_for_schema(sys.argv[1])
