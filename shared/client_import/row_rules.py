"""Parses a row of an imported file into a client, or lists the errors in it.

Cells are accepted as people write them: a phone with a plus, brackets and spaces, a time zone in
any case, an empty cell for an unknown value. All errors of a row are reported together.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from shared.domain.attributes import MAX_VALUE_LENGTH
from shared.domain.phones import InvalidPhone, parse_phone
from shared.domain.spreadsheets import unescape_formula
from shared.domain.time_zones import TIME_ZONES

# Columns by the names that a header may use, in lower case.
COLUMN_NAMES = {
    name: column
    for column, names in {
        "phone": "phone|phone number|mobile|mobile phone|msisdn|tel|телефон|номер|номер телефона|"
        "мобильный|мобильный телефон|тел|тел.",
        "operator_code": "operator code|operatorcode|code|def|def code|код|код оператора|"
        "код мобильного оператора|оператор",
        "tag": "tag|label|тег|тэг|метка",
        "timezone": "timezone|time zone|tz|zone|часовой пояс|зона|временная зона|таймзона",
    }.items()
    for name in names.split("|")
}
COLUMNS = ("phone", "operator_code", "tag", "timezone")
MAX_TAG_LENGTH = 64

OPERATOR_CODE = re.compile(r"[0-9]{3}")
CODE_DETAIL = "operator_code must be exactly 3 digits, for example 916, or empty"
TAG_DETAIL = f"tag must be at most {MAX_TAG_LENGTH} characters"
ZONE_DETAIL = "timezone must be an IANA time zone, for example Europe/Moscow"
ZONE_MISSING = "timezone is missing: fill it in, or send the file with ?timezone=Europe/Moscow"
BREAK_DETAIL = "{} must not hold a line break; look for a quote that is not closed"

_ZONES = {zone.lower(): zone for zone in TIME_ZONES}


class InvalidCell(ValueError):
    """An invalid cell; the text says what is expected, `code` serves translations."""

    def __init__(self, code: str, detail: str):
        super().__init__(detail)
        self.code = code


class CellError(NamedTuple):
    """An error in a row: its column (empty for the whole row), what is expected, and a code."""

    column: str
    detail: str
    code: str


class ClientRow(NamedTuple):
    """A valid row; a value of None leaves that of a known client unchanged."""

    phone: str
    operator_code: str | None
    tag: str | None
    timezone: str | None


class RowParser:
    """Parses the cells of rows.

    `tag` and `timezone` are the values for empty or missing cells. With `zone_optional` a time zone
    is not required, as new clients get a default one when they are merged.
    """

    def __init__(self, tag: str | None, timezone: str | None, zone_optional: bool):
        self._tag = tag
        self._timezone = timezone
        self._zone_optional = zone_optional

    def parse_row(
        self, phone: str, code: str, tag: str | None, zone: str
    ) -> ClientRow | list[CellError]:
        """Return the row, or all its errors. A tag of None means that there is no such column."""
        errors: list[CellError] = []

        def parse(
            column: str, parser: Callable[[str | None], str | None], cell: str | None
        ) -> str | None:
            try:
                if cell and ("\n" in cell or "\r" in cell):
                    raise InvalidCell("line_break", BREAK_DETAIL.format(column))
                return parser(cell)
            except (InvalidCell, InvalidPhone) as error:
                errors.append(CellError(column, str(error), error.code))
                return None

        row = ClientRow(
            parse("phone", lambda cell: parse_phone(cell or ""), phone) or "",
            parse("operator_code", parse_operator_code, code),
            parse("tag", self.parse_tag, tag),
            parse("timezone", self.parse_zone, zone),
        )
        return errors or row

    def parse_tag(self, cell: str | None) -> str | None:
        """Return the tag; None to leave it unchanged (empty for a new client)."""
        tag = unescape_formula(cell.strip()) if cell is not None else ""
        if len(tag) > MAX_TAG_LENGTH:
            raise InvalidCell("tag_length", TAG_DETAIL)
        return tag or (self._tag if self._tag is not None or cell is None else "")

    def parse_zone(self, cell: str | None) -> str | None:
        """Return the zone's IANA name; None to leave it unchanged."""
        name = cell.strip() if cell else ""
        if name:
            zone = name if name in TIME_ZONES else _ZONES.get(name.lower())
            if zone is None:
                raise InvalidCell("timezone_unknown", ZONE_DETAIL)
            return zone
        if self._timezone is None and not self._zone_optional:
            raise InvalidCell("timezone_missing", ZONE_MISSING)
        return self._timezone


def parse_attributes(cells: Mapping[str, str]) -> tuple[dict[str, str], list[CellError]]:
    """Return the attributes in cells (by name) that are not empty, and the errors in them."""
    attributes, errors = {}, []
    for name, cell in cells.items():
        value = unescape_formula(cell.strip())
        if len(value) > MAX_VALUE_LENGTH:
            detail = f"{name} must be at most {MAX_VALUE_LENGTH} characters"
            errors.append(CellError(name, detail, "value_length"))
        elif "\n" in value or "\r" in value:
            errors.append(CellError(name, BREAK_DETAIL.format(name), "line_break"))
        elif value:
            attributes[name] = value
    return attributes, errors


def parse_operator_code(cell: str | None) -> str | None:
    code = cell.strip().lstrip("'") if cell else ""
    if code and OPERATOR_CODE.fullmatch(code) is None:
        raise InvalidCell("operator_code_format", CODE_DETAIL)
    return code or None
