"""Request and response schemas of imports, with their examples."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema

from api.clients.import_check import MAX_MAPPING_LENGTH, parse_mapping
from api.clients.import_upload import MAX_FILE_NAME_LENGTH
from api.schemas import examples
from api.schemas.base import ListQuery, Query
from api.schemas.fields import Instant, Several, Tag, Timezone
from api.schemas.invalid_value import invalid_value
from api.schemas.responses import ResponseModel
from shared.domain.error_texts import error_text
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


MAPPING_EXAMPLE = '{"columns": {"tag": "segment"}, "timezones": {"МСК+3": "Asia/Omsk"}}'


def _check_mapping(text: str) -> str:
    if parse_mapping(text) is None:
        raise invalid_value(
            "mapping_format",
            error_text(
                "must be a JSON object with columns (a field, the name of an attribute or null for "
                "each column) and timezones (an IANA time zone for each cell)"
            ),
        )
    return text


Mapping = Annotated[
    str,
    AfterValidator(_check_mapping),
    WithJsonSchema(
        {
            "type": "string",
            "contentMediaType": "application/json",
            "maxLength": MAX_MAPPING_LENGTH,
            "examples": [MAPPING_EXAMPLE],
        }
    ),
]


class ImportQuery(Query):
    """Values that fill empty or missing cells, and what the columns are."""

    tag: Tag | None = Field(default=None, description="The tag of rows that have none.")
    timezone: Timezone | None = Field(
        default=None, description="The time zone of rows that have none."
    )
    mapping: Mapping | None = Field(
        default=None,
        description="What the columns of a CSV or XLSX file are, as JSON. `columns` has for a "
        "column, named by its header or as `#3` by its position, one of the fields, the name of an "
        "attribute, or null to ignore it; other columns are recognised. `timezones` confirms what "
        "a cell such as `UTC+3` means.",
    )
    file_name: str | None = Field(
        default=None,
        max_length=MAX_FILE_NAME_LENGTH,
        description="The file's name, which the list of imports shows; a form has its own.",
    )


class UndoQuery(Query):
    keep_edited: bool = Field(
        default=False,
        description="Leave clients as they are that were edited since, instead of a 409.",
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
        description="In the language of `Accept-Language`.",
        examples=[
            'row 17: phone "495-00-11" must be 11 digits and start with 7, for example 79161234567'
        ],
    )
    code: str = Field(description="Which rule is violated; stable.", examples=["phone_format"])


class UndoAnswer(ResponseModel):
    """The undo of an import, and its progress."""

    requested_by: str = Field(description="Who requested it, as the audit log names them.")
    requested_at: datetime
    finished_at: datetime | None = Field(description="Null while it is under way.")
    deleted: int = Field(description="Created clients that are deleted.")
    restored: int = Field(description="Changed clients that have their earlier values again.")
    kept: int = Field(
        description="Clients that stay as they are, since they were edited or used meanwhile."
    )


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
    created_by: str | None = Field(
        description="Who imported it, as the audit log names them: `token:NAME`, `command` or "
        "`person:ISSUER#SUBJECT`; null for imports of earlier versions."
    )
    file_name: str = Field(description="Empty if it is not known.", examples=["clients.xlsx"])
    created_at: datetime
    finished_at: datetime | None
    undo_until: datetime | None = Field(
        description="Until when it can be undone, unless its clients are used; null if it cannot."
    )
    undo: UndoAnswer | None = Field(description="Its undo, if one was requested.")


class CheckedColumn(ResponseModel):
    """A column of the file, and what it would be."""

    column: str = Field(description="The header.", examples=["Телефон"])
    target: str | None = Field(
        description="A field of clients, or the name of an attribute; null if it is ignored.",
        examples=["phone"],
    )
    samples: list[str] = Field(description="The first different values.")


class CheckedZone(ResponseModel):
    """An offset in the column of time zones, which waits for a confirmation in `mapping`."""

    value: str = Field(examples=["мск+3"])
    timezone: str = Field(description="The zone that it may mean.", examples=["Asia/Omsk"])
    rows: int


class ImportCheck(ResponseModel):
    """What the import of a file would do. rows = created + updated + unchanged + rejected."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.IMPORT_CHECK]})

    rows: int
    created: int
    updated: int
    unchanged: int
    rejected: int
    columns: list[CheckedColumn] = Field(description="Empty for NDJSON.")
    timezones: list[CheckedZone]
    errors: list[RowError] = Field(
        description="The first 100 errors, without rows that a later one repeats."
    )


class ImportPage(ResponseModel):
    """A page of imports, by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.page_of(examples.IMPORT)]})

    items: list[ImportAnswer]
    next_cursor: str | None
