"""Types of values that callers send: phones, time zones, instants, clock times, cursors.

Each is validated strictly, has an error text with a valid example, and a JSON schema.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from api.cursors import MAX_ID, MAX_LIMIT, decode_cursor
from api.schemas.invalid_value import invalid_value
from shared.domain.error_texts import ErrorText, error_text
from shared.domain.phones import PHONE_DETAIL, PHONE_EXAMPLE, PHONE_PATTERN
from shared.domain.time_zones import TIME_ZONES


@dataclass(frozen=True)
class TextFormat:
    """A string that matches a pattern; the error text contains a valid example."""

    pattern: str
    code: str
    detail: ErrorText
    example: str

    def check(self, value: str) -> str:
        if re.search(self.pattern, value) is None:
            raise invalid_value(self.code, self.detail)
        return value

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        pattern = self.pattern.replace(r"\Z", "$")
        return {**handler(schema), "pattern": pattern, "examples": [self.example]}


Phone = Annotated[
    str,
    TextFormat(
        rf"^{PHONE_PATTERN}\Z",
        "phone_format",
        PHONE_DETAIL,
        PHONE_EXAMPLE,
    ),
]
OperatorCode = Annotated[
    str,
    TextFormat(
        r"^[0-9]{3}\Z",
        "operator_code_format",
        error_text("must be exactly 3 digits, for example 916"),
        "916",
    ),
]
TOKEN_NAME = TextFormat(
    r"^[^\x00-\x1f\x7f-\x9f]{1,100}\Z",
    "token_name_format",
    error_text("must have 1 to 100 characters, and no control characters"),
    "billing",
)
TokenName = Annotated[str, TOKEN_NAME]
Tag = Annotated[str, Field(max_length=64, examples=["vip"])]
MAX_SEARCH_LENGTH = 100
# The document says that blanks alone are no search.
Search = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_SEARCH_LENGTH),
    Field(json_schema_extra={"pattern": r"\S"}),
]


def _check_zone(name: str) -> str:
    if name not in TIME_ZONES:
        raise invalid_value(
            "timezone_unknown", error_text("must be an IANA time zone, for example Europe/Moscow")
        )
    return name


Timezone = Annotated[
    str,
    AfterValidator(_check_zone),
    Field(examples=["Europe/Moscow"], json_schema_extra={"format": "iana-timezone"}),
]

INSTANT = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})[Tt ](\d{2}):(\d{2}):(\d{2})(?:\.(\d+))?"
    r"(?:([Zz])|([+-])(\d{2}):(\d{2}))?",
    re.ASCII,
)
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
INSTANT_EXAMPLE = "2030-12-02T09:00:00+03:00"


def parse_instant(value: object) -> datetime:
    found = INSTANT.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise invalid_value(
            "instant_format",
            error_text(
                "must be an RFC 3339 date and time with an offset, for example %(example)s",
                example=INSTANT_EXAMPLE,
            ),
        )
    *numbers, fraction, utc, sign, hours, minutes = found.groups()
    if utc is None and sign is None:
        raise invalid_value(
            "instant_naive",
            error_text(
                "must carry its offset from UTC (Z or +03:00), for example %(example)s",
                example=INSTANT_EXAMPLE,
            ),
        )
    year, month, day, hour, minute, second = map(int, numbers)
    microsecond = int((fraction or "0")[:6].ljust(6, "0"))
    try:
        offset = UTC if utc else _offset(sign, int(hours), int(minutes))
        # RFC 3339 has leap seconds, PostgreSQL and Python do not: 23:59:60 becomes the next second.
        leap = timedelta(seconds=second == 60)
        local = datetime(year, month, day, hour, minute, min(second, 59 + (second > 60)))
        instant = local.replace(microsecond=microsecond, tzinfo=offset) + leap
        within = EARLIEST <= instant < LATEST
    except (ValueError, OverflowError):
        raise invalid_value(
            "instant_unreal", error_text("is a date or time that does not exist")
        ) from None
    if not within:
        raise invalid_value("instant_range", error_text("must lie between the years 1970 and 2199"))
    return instant.astimezone(UTC)


def _offset(sign: str, hours: int, minutes: int) -> timezone:
    if hours > 23 or minutes > 59:
        raise ValueError("invalid offset")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if sign == "-" else offset)


Instant = Annotated[
    datetime,
    BeforeValidator(parse_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]

DAY_PATTERN = r"^(19[7-9][0-9]|2[01][0-9]{2})-[0-9]{2}-[0-9]{2}$"


def _parse_day(value: object) -> date:
    if isinstance(value, str) and len(value) == 10 and re.match(DAY_PATTERN, value, re.ASCII):
        with suppress(ValueError):  # there is no 30 February
            return date.fromisoformat(value)
    raise invalid_value(
        "day_format",
        error_text("must be a day of the years 1970 to 2199, for example 2030-12-02"),
    )


Day = Annotated[
    date,
    BeforeValidator(_parse_day),
    WithJsonSchema({"type": "string", "format": "date", "pattern": DAY_PATTERN}),
]

Status = TypeVar("Status")


def _split_values(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


# Several statuses in a query string, separated by commas.
Several = Annotated[list[Status], BeforeValidator(_split_values), Field(min_length=1)]

CLOCK_TIME = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")


def _parse_clock_time(value: object) -> time:
    if not isinstance(value, str) or CLOCK_TIME.fullmatch(value) is None:
        raise invalid_value(
            "clock_time_format",
            error_text("must be a time between 00:00 and 23:59, for example 09:00"),
        )
    return time(int(value[:2]), int(value[3:]))


ClockTime = Annotated[
    time,
    BeforeValidator(_parse_clock_time),
    WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"}),
]


def convert_whole_float(value: object) -> object:
    """Convert 5.0 to 5: JSON does not distinguish them."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _parse_limit(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}", value) is not None:
        number = int(value)
        if 1 <= number <= MAX_LIMIT:
            return number
    raise invalid_value(
        "limit", error_text("must be a whole number from 1 to %(most)s", most=MAX_LIMIT)
    )


Limit = Annotated[
    int,
    BeforeValidator(_parse_limit),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
]


def _parse_id(value: object) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,19}", value) is not None:
        number = int(value)
        if number <= MAX_ID:
            return number
    raise invalid_value("id", error_text("must be the id of something: a whole number"))


# An id in a query string.
QueryId = Annotated[
    int,
    BeforeValidator(_parse_id),
    WithJsonSchema({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_ID}),
]


def _parse_cursor(value: object) -> int:
    try:
        return decode_cursor(str(value))
    except ValueError:
        raise invalid_value(
            "cursor", error_text("must be the next_cursor of an earlier page of this list")
        ) from None


Cursor = Annotated[
    int,
    BeforeValidator(_parse_cursor),
    WithJsonSchema({"type": "string", "format": "cursor", "examples": ["NTA"]}),
]


def _parse_flag(value: object) -> bool:
    if value in ("true", "false"):
        return value == "true"
    raise invalid_value("flag", error_text("must be true or false"))


Flag = Annotated[bool, BeforeValidator(_parse_flag), WithJsonSchema({"type": "boolean"})]
