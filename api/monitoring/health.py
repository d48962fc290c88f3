"""Whether the process lives, and whether it can serve: for probes, without a token."""

from typing import Any

from flask import Blueprint
from pydantic import ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.db import db
from api.enqueue import job_queues
from api.errors import Unavailable
from api.openapi.operation import operation
from api.schemas.responses import ResponseModel
from shared.db import schema

blueprint = Blueprint("health", __name__)


ALIVE = {"status": "ok"}
READY = {"status": "ready", "database": "ok", "migrations": "applied", "redis": "ok"}


class Health(ResponseModel):
    """The process lives."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{**ALIVE}]})

    status: str = Field(examples=["ok"])


class Readiness(ResponseModel):
    """Whether requests can be answered. Redis is reported, but not needed."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{**READY}]})

    status: str = Field(examples=["ready"])
    database: str = Field(examples=["ok"])
    migrations: str = Field(examples=["applied"])
    redis: str = Field(examples=["ok", "unreachable"])


@blueprint.get("/healthz")
@operation("service", response=Health, description="The process lives.", public=True)
def healthz() -> dict[str, Any]:
    """Say whether the process lives

    Asks nobody else: an outage of the database is no reason to restart this process.
    """
    return ALIVE


@blueprint.get("/readyz")
@operation(
    "service",
    response=Readiness,
    description="Requests can be answered.",
    problems=(503,),
    public=True,
)
def readyz() -> dict[str, Any]:
    """Say whether requests can be answered

    Needs the database with every migration applied. Without Redis the API works all the same:
    mailings start when it is back.
    """
    if not _migrated():
        raise Unavailable("The database lacks migrations: run flask --app api db upgrade.")
    return READY | {"redis": "ok" if job_queues().ping() else "unreachable"}


def _migrated() -> bool:
    try:
        return schema.is_schema_applied(db.session.scalar(text(schema.APPLIED)))
    except ProgrammingError:  # there is no such table yet
        return False
