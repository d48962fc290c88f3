"""Request and response schemas of imports, with their examples."""

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from api.schemas import examples
from api.schemas.base import ListQuery, Query
from api.schemas.fields import Instant, Several, Tag, Timezone
from api.schemas.responses import ResponseModel
from shared.domain.statuses import ImportStatus

UPLOAD_EXAMPLE = (
    "phone;tag;timezone\r\n+7 (916) 123-45-67;vip;Europe/Moscow\r\n79261234567;;Asia/Omsk\r\n"
)
REJECTED_EXAMPLE = (
    "line,phone,operator_code,tag,timezone,reason\r\n"
    "17,495-00-11,,vip,Europe/Moscow,"
    '"phone ""495-00-11"" must be 11 digits and start with 7, for example 79161234567"\r\n'
)


# An import is shown once its whole file is received.
ReceivedStatus = Literal[ImportStatus.RUNNING, ImportStatus.FINISHED, ImportStatus.FAILED]


class ImportQuery(Query):
    """Values that fill empty or missing cells."""

    tag: Tag | None = Field(default=None, description="The tag of rows that have none.")
    timezone: Timezone | None = Field(
        default=None, description="The time zone of rows that have none."
    )


class ImportListQuery(ListQuery):
    status: Several[ReceivedStatus] | None = Field(
        default=None, description="Imports in one of these statuses, separated by commas."
    )
    created_since: Instant | None = Field(
        default=None, description="Begun not before this instant."
    )
    created_until: Instant | None = Field(default=None, description="Begun before this instant.")


class RowError(ResponseModel):
    """An error of a rejected row, with the correction."""

    line: int = Field(description="The row's number, as a spreadsheet shows it; NDJSON: the line.")
    column: str = Field(
        description="Empty if the error concerns the row as a whole.", examples=["phone"]
    )
    value: str = Field(description="The cell as given, shortened.", examples=["495-00-11"])
    detail: str = Field(
        examples=[
            'row 17: phone "495-00-11" must be 11 digits and start with 7, for example 79161234567'
        ]
    )
    code: str = Field(description="Which rule is violated; stable.", examples=["phone_format"])


class ImportAnswer(ResponseModel):
    """An import. The totals add up: rows_done = created + updated + unchanged + rejected."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.IMPORT]})

    id: int
    status: ReceivedStatus
    rows_total: int
    rows_done: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    rejected_kept: int = Field(
        description="How many rejected rows rejected.csv has: the first 20,000 at most."
    )
    errors: list[RowError] = Field(description="The first 100 errors; rejected.csv has more.")
    attribute_columns: list[str] = Field(description="Columns of the file that are attributes.")
    ignored_columns: list[str] = Field(description="Columns of the file that were ignored.")
    failure: str | None = Field(description="Why it failed, and what to do.")
    created_at: datetime
    finished_at: datetime | None


class ImportPage(ResponseModel):
    """A page of imports, by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.page_of(examples.IMPORT)]})

    items: list[ImportAnswer]
    next_cursor: str | None
