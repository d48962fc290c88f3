"""Request and response schemas of opt-outs, with their examples."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from api.schemas.base import Body, ListQuery, Query
from api.schemas.fields import Phone
from api.schemas.responses import ResponseModel, format_instant
from shared.db.opt_outs import OptOut

MAX_PHONES = 1_000

OPT_OUT: dict[str, Any] = {
    "phone": "79161234567",
    "source": "support call",
    "created_at": "2030-12-01T08:00:00.000000Z",
}
ADDED: dict[str, Any] = {"added": 1, "existing": 0, "messages_cancelled": 2}
IMPORTED: dict[str, Any] = {
    **ADDED,
    "rows": 2,
    "rejected": 1,
    "faults": [
        {
            "line": 3,
            "detail": "phone must be 11 digits and start with 7, for example 79161234567",
        }
    ],
}
CSV_EXAMPLE = "phone,source,created_at\r\n79161234567,support call,2030-12-01T08:00:00.000000Z\r\n"

Source = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Where the opt-out comes from.",
        examples=["support call"],
    ),
]


class NewOptOuts(Body):
    """Phones to opt out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"phones": ["79161234567"], "source": "support call"}]}
    )

    phones: list[Phone] = Field(min_length=1, max_length=MAX_PHONES)
    source: Source = "api"


class OptOutQuery(ListQuery):
    phone: Phone | None = Field(default=None, description="Only the opt-out of this phone.")


class SourceQuery(Query):
    source: Source = Field(default="import", description="The source of rows that name none.")


class OptOutsAdded(ResponseModel):
    """How many phones were added, and how many were already opted out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [ADDED]})

    added: int
    existing: int
    messages_cancelled: int = Field(
        description="Cancelled messages that were pending for the phones' clients."
    )


class OptOutAnswer(ResponseModel):
    """A phone that no mailing sends to."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [OPT_OUT]})

    phone: str
    source: str
    created_at: datetime


class OptOutPage(ResponseModel):
    """A page of opt-outs, ordered by phone."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"items": [OPT_OUT], "next_cursor": None}]}
    )

    items: list[OptOutAnswer]
    next_cursor: str | None


class RowFault(ResponseModel):
    """A rejected row of the file."""

    line: int
    detail: str


class OptOutImport(OptOutsAdded):
    """The totals of an imported file, and its rejected rows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [IMPORTED]})

    rows: int
    rejected: int
    faults: list[RowFault] = Field(description="The first 100 rejected rows.")


def present_opt_out(row: OptOut) -> dict[str, Any]:
    return {
        "phone": str(row.phone),
        "source": row.source,
        "created_at": format_instant(row.created_at),
    }
