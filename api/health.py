"""Whether the process lives, and whether it can serve: for probes, without a token."""

from functools import cache
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from flask import Blueprint
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.answers import Health, Readiness
from api.database import MIGRATIONS, db
from api.openapi import operation
from api.problems import Unavailable
from api.wake import queues

health = Blueprint("health", __name__)


@health.get("/healthz")
@operation("service", answer=Health, says="The process lives.", public=True)
def healthz() -> dict[str, Any]:
    """Say whether the process lives

    Asks nobody else: an outage of the database is no reason to restart this process.
    """
    return {"status": "ok"}


@health.get("/readyz")
@operation("service", answer=Readiness, says="Requests can be answered.", public=True)
def readyz() -> dict[str, Any]:
    """Say whether requests can be answered

    Needs the database with every migration applied. Without Redis the API works all the same:
    mailings start when it is back.
    """
    if not _migrated():
        raise Unavailable("The database lacks migrations: run flask --app api db upgrade.")
    return {
        "status": "ready",
        "database": "ok",
        "migrations": "applied",
        "redis": "ok" if queues().ping() else "unreachable",
    }


def _migrated() -> bool:
    """Whether the schema is what this code needs, or newer: a deployment may be under way."""
    try:
        applied = db.session.scalar(text("SELECT version_num FROM alembic_version"))
    except ProgrammingError:  # there is no such table yet
        return False
    known, head = _revisions()
    return applied is not None and (applied == head or applied not in known)


@cache
def _revisions() -> tuple[frozenset[str], str | None]:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    return frozenset(s.revision for s in scripts.walk_revisions()), scripts.get_current_head()
