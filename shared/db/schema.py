"""Whether the database has the schema that this version needs; run as a program, it waits for it.

    python -m shared.db.schema database      ends when PostgreSQL lets us in
    python -m shared.db.schema migrations    ends when they are applied, by whoever applies them

What must not start earlier is started behind it.
"""

import sys
import time
from functools import cache
from pathlib import Path

import psycopg2
from alembic.config import Config
from alembic.script import ScriptDirectory

from shared.config.settings import DatabaseSettings, load_settings
from shared.logging.redaction import redact

MIGRATIONS_PATH = Path(__file__).parents[1] / "migrations"

APPLIED = "SELECT version_num FROM alembic_version"
POLL_SECONDS = 1.0


def is_schema_applied(revision: str | None) -> bool:
    """Whether a database at `revision` will do: it has this version's schema, or a newer one's.

    A newer version may just be taking this one's place, or was taken back: a migration leaves the
    version before it able to work.
    """
    known, head = _revisions()
    return revision is not None and (revision == head or revision not in known)


def is_schema_newer(revision: str | None) -> bool:
    """Whether `revision` was made by a version after this one."""
    return revision is not None and revision not in _revisions()[0]


@cache
def _revisions() -> tuple[frozenset[str], str | None]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_PATH).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    return frozenset(s.revision for s in scripts.walk_revisions()), scripts.get_current_head()


def _missing(database_url: str, step: str) -> str | None:
    """What is still waited for, in words; None: nothing."""
    try:
        connection = psycopg2.connect(database_url, connect_timeout=5)
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


def main(step: str) -> None:
    url = load_settings(DatabaseSettings).database_url
    said = None
    while (missing := _missing(url, step)) is not None:
        if missing != said:
            print(f"waiting for {missing}", file=sys.stderr, flush=True)
            said = missing
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    if sys.argv[1:] not in (["database"], ["migrations"]):
        sys.exit("usage: python -m shared.db.schema database | migrations")
    main(sys.argv[1])
