"""Probes of liveness and readiness, without a token."""

from typing import Any

from flask import Blueprint
from pydantic import Field
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.db import db, is_read_only, replace_connections
from api.enqueue import job_queues
from api.errors import Unavailable
from api.openapi.operation import operation
from api.schemas.responses import ResponseModel, with_example
from shared.db import schema
from shared.db.policy import STOPPED
from shared.domain.error_texts import error_text
from shared.domain.time_zones import RULES_VERSION

blueprint = Blueprint("health", __name__)


HEALTH_EXAMPLE = {"status": "ok"}
READY_EXAMPLE = {
    "status": "ready",
    "database": "ok",
    "migrations": "applied",
    "redis": "ok",
    "sending": "on",
    "time_zones": "2026f",
}


class Health(ResponseModel):
    """The process is alive."""

    model_config = with_example({**HEALTH_EXAMPLE})

    status: str = Field(examples=["ok"])


class Readiness(ResponseModel):
    """Whether requests can be answered. Redis is reported, but not required."""

    model_config = with_example({**READY_EXAMPLE})

    status: str = Field(examples=["ready"])
    database: str = Field(examples=["ok"])
    migrations: str = Field(examples=["applied"])
    redis: str = Field(
        description="`ok`, or the name of the error that Redis gives: `unreachable`, `timeout`,"
        " `READONLY` (a replica), `OOM` (full), `LOADING`, `NOAUTH`, `WRONGPASS`, `NOPERM`, ...",
        examples=["ok", "unreachable", "READONLY", "OOM"],
    )
    sending: str = Field(
        description="`stopped` during an emergency stop: the API works, and nothing is sent.",
        examples=["on", "stopped"],
    )
    time_zones: str = Field(
        description="The version of the time zone rules that this process uses.", examples=["2026f"]
    )


@blueprint.get("/healthz")
@operation("service", response=Health, description="The process is alive.", public=True)
def healthz() -> dict[str, Any]:
    """Check whether the process is alive

    Does not check the database: its outage is no reason to restart this process.
    """
    return HEALTH_EXAMPLE


@blueprint.get("/readyz")
@operation(
    "service",
    response=Readiness,
    description="Requests can be answered.",
    problems=(503,),
    public=True,
)
def readyz() -> dict[str, Any]:
    """Check whether requests can be answered

    Requires a database that accepts writes, with all migrations. Without Redis the API still
    works: mailings start when it is back.
    """
    if is_read_only():
        replace_connections()
        raise Unavailable(error_text("The database accepts no writes: this server is a standby."))
    if not _is_migrated():
        raise Unavailable(
            error_text("The database lacks migrations: run flask --app api db upgrade.")
        )
    stopped = db.session.scalar(text(f"SELECT {STOPPED}"))
    return READY_EXAMPLE | {
        "redis": job_queues().check(),
        "sending": "stopped" if stopped else "on",
        "time_zones": RULES_VERSION,
    }


def _is_migrated() -> bool:
    try:
        return schema.is_schema_applied(db.session.scalar(text(schema.APPLIED)))
    except ProgrammingError:  # the table does not exist yet
        return False
